"""What an operator is told when the settings are wrong."""


class MisconfiguredError(Exception):
    """The settings do not fit each other, or not the store; the message is one line for the operator."""
