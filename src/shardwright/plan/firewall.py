"""The lines that open a port for another node, in the words of the usual firewalls. Pure."""

from ipaddress import ip_address

from shardwright.model.check import PortOffer, PortUse

RANGES = {PortUse.DATABASES: (10_000, 19_999), PortUse.SERVERS: (20_000, 29_999)}
"""Of these, all ports must be open and not only the one that was tried."""


def opening_lines(offer: PortOffer, source: str) -> tuple[str, ...]:
    """What opens the port, on the machine that has it, for the source: with nft, with ufw, with firewalld. Clients of
    databases may come from anywhere."""
    first, last = RANGES.get(offer.use, (offer.port, offer.port))
    dash, colon = (str(first), str(first)) if first == last else (f"{first}-{last}", f"{first}:{last}")
    if offer.use is PortUse.DATABASES or not _is_address(source):
        return (
            f"nft add rule inet filter input tcp dport {dash} accept",
            f"ufw allow {colon}/tcp",
            f"firewall-cmd --permanent --add-port={dash}/tcp && firewall-cmd --reload",
        )
    version = ip_address(source).version
    family, kind = ("ip", "ipv4") if version == 4 else ("ip6", "ipv6")
    rule = f'rule family="{kind}" source address="{source}" port port="{dash}" protocol="tcp" accept'
    return (
        f"nft add rule inet filter input {family} saddr {source} tcp dport {dash} accept",
        f"ufw allow proto tcp from {source} to any port {colon}",
        f"firewall-cmd --permanent --add-rich-rule='{rule}' && firewall-cmd --reload",
    )


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
