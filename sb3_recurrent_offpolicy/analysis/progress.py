"""A progress bar for what takes long."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(name: str, is_shown: bool, total: int | None = None) -> Iterator[Callable[[str], None]]:
    """
    :param name: of the work
    :param is_shown: nothing happens if not
    :param total: number of parts, None if unknown
    :return: to be called at the beginning of each part, with its name
    """
    if not is_shown:
        yield lambda part: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, desc=name) as bar:

        def advance(part: str) -> None:
            bar.set_postfix_str(part)
            bar.update()

        yield advance
