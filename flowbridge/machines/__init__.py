"""What decides: state machines without loop, socket or clock."""
