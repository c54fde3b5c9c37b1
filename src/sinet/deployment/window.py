"""A window for `sinet predict --show`, by tkinter, which most Pythons bring along."""

from __future__ import annotations

from typing import Any

from PIL import Image

from sinet.errors import UsageError


class Window:
    """Shows one picture after the other, until it is closed.

    Raises:
        UsageError: there is no display, or no tkinter.
    """

    def __init__(self) -> None:
        try:
            import tkinter

            from PIL import ImageTk

            self._root: Any = tkinter.Tk()
        except Exception as error:  # TclError, which cannot be named where tkinter is missing
            raise UsageError(
                f"no window can be opened here ({error}); leave --show out and give --draw FOLDER"
            ) from error
        self._root.title("sinet")
        self._root.protocol("WM_DELETE_WINDOW", self.close)
        self._photo: Any = ImageTk.PhotoImage
        self._label: Any = tkinter.Label(self._root)
        self._label.pack()
        self.open = True

    def show(self, picture: Image.Image) -> bool:
        """Put a picture in the place of the last; False where the window was closed."""
        if self.open:
            self._image = self._photo(picture)  # tkinter keeps no reference of its own
            self._label.configure(image=self._image)
            self._root.update()
        return self.open

    def close(self) -> None:
        """Close it, as its button does."""
        self.open = False
        self._root.destroy()

    def wait(self) -> None:
        """Until somebody closes it."""
        if self.open:
            self._root.mainloop()
