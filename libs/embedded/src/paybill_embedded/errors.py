"""What can go wrong when the embedded servers start, in words for the person at the keyboard."""


class EmbeddedError(Exception):
    """The embedded parts cannot run here.

    code: stable, for programs. message: one line, what is wrong. next_step: one line, what to do about it.
    """

    def __init__(self, code: str, message: str, next_step: str) -> None:
        super().__init__(f"{message}; {next_step}")
        self.code = code
        self.message = message
        self.next_step = next_step
