"""What people and models say of features."""
