"""What goes wrong on the user's side, and how the command lines say it."""


class UserError(Exception):
    """A mistake that the user can mend: ``str(e)`` is one line.

    The line says what is wrong, where, and what to do. Command lines print
    it without a traceback; everything else that is raised is a bug and keeps
    its traceback.
    """
