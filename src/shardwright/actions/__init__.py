"""Actions and moves as pure state machines: ``base.decide_action`` for actions, ``move`` and ``handoff`` for moves."""
