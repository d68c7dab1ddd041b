"""Why a file cannot become a radiograph."""


class RejectedFileError(Exception):
    """A file is left out.

    The text comes from here alone, never from a header or a library's message, which may quote
    a patient's name.

    Attributes:
        code: A stable name of the reason, for counting.
        hint: One sentence for the person who can mend it.
    """

    def __init__(self, code: str, hint: str):
        super().__init__(code, hint)  # both, so that it survives the way back from a worker
        self.code = code
        self.hint = hint
