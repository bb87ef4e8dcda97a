"""The whole cluster in one thread and in virtual time: the product's leader, planner, actions and reconciliation on
simulated machines, servers, endpoint processes, network and store. One seed decides everything that happens."""
