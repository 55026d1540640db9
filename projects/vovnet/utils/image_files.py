"""Images that a command line names, and files for their results."""
import glob
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from .errors import UserError

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm')


def find_images(place: str) -> tuple[Path, list[Path]]:
    """List the images that a command line names.

    Args:
        place: An image, a folder (searched with its subfolders) or a glob
            pattern (``**`` for subfolders).

    Returns:
        The folder that holds all images, and the images, sorted.

    Raises:
        UserError: If there are no images.
    """
    path = Path(place)
    if path.is_dir():
        root = path
        found = (f for f in path.rglob('*') if f.suffix.lower() in SUFFIXES)
    else:
        found = map(Path, [place] if path.exists() else
                    glob.glob(place, recursive=True))
    images = sorted(file for file in found if file.is_file())
    if not images:
        raise UserError(f'{place}: no images there; name an image, a folder '
                        'or a quoted pattern')
    if not path.is_dir():
        root = Path(os.path.commonpath([file.parent for file in images]))
    return root, images


def choose_output_files(root: Path, images: Sequence[Path],
                        out_dir: Path) -> list[tuple[Path, Path]]:
    """Choose a picture and a JSON file for the results of each image.

    ``root/a/1.jpg`` gets ``out_dir/vis/a/1.jpg`` and
    ``out_dir/preds/a/1.jpg.json``. The picture of an image that is neither
    JPEG nor PNG gets ``.png`` added to its name.

    Raises:
        UserError: If a result would replace an input or another result.
    """
    outputs = []
    for image in images:
        name = str(image.relative_to(root))
        drawn = name if image.suffix.lower() in SUFFIXES[:3] else name + '.png'
        outputs.append((out_dir / 'vis' / drawn,
                        out_dir / 'preds' / f'{name}.json'))
    inputs = {image.resolve() for image in images}
    pictures = Counter(picture.resolve() for picture, _ in outputs)
    for picture, count in pictures.items():
        if picture in inputs or count > 1:
            raise UserError(f'{picture}: would be overwritten by a result; '
                            'choose another --out-dir')
    return outputs


def print_results(results: Iterable[tuple[Path, int | None]],
                  summarize: Callable[[int], str]) -> None:
    """Print the number of detections of each image as it comes.

    Args:
        results: Each image and its number of detections, None if it could not
            be read or is too narrow to be resized.
        summarize: Returns the last line, given the number of images read.

    Raises:
        UserError: At the end, if some images could not be read.
    """
    read, unread = 0, []
    for image, count in results:
        if count is None:
            unread.append(image)
            print(f'{image}: cannot be read as an image, or is too narrow',
                  file=sys.stderr)
        else:
            read += 1
            print(f'{image}: {count} objects')
    print(summarize(read))
    if unread:
        raise UserError(f'{len(unread)} of {read + len(unread)} images cannot '
                        f'be read, the first is {unread[0]}; replace them')
