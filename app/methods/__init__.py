"""What a policy may name: methods and objectives with what they fix and preset."""
