"""What a feature is: where it fires, what it says, which text shows it."""
