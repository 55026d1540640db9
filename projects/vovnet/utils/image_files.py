"""Images that a command line names, and where results for them go.

Own work. Needs nothing but Python.
"""
import glob
import os
import sys
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
        tuple: The folder that all images are in, and the images, sorted.

    Raises:
        UserError: If there are none.
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
    """Where the results of each image go.

    ``a/1.jpg`` below ``root`` gives ``out_dir/vis/a/1.jpg`` and
    ``out_dir/preds/a/1.jpg.json``; a picture whose format is not JPEG or PNG
    gets ``.png`` added to its name.

    Args:
        root: The folder that all images are in.
        images: The images.
        out_dir: The folder for the results.

    Returns:
        list: A picture and a JSON file for each image.

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
    pictures = [picture.resolve() for picture, _ in outputs]
    for picture in pictures:
        if picture in inputs or pictures.count(picture) > 1:
            raise UserError(f'{picture}: would be overwritten by a result; '
                            'choose another --out-dir')
    return outputs


def print_results(results: Iterable[tuple[Path, int | None]],
         summary: Callable[[int], str]) -> None:
    """Print what is found in each image, as it comes.

    Args:
        results: Each image and its number of detections, None if it could not
            be read or is too narrow to be resized.
        summary: Gives the last line, of the number of images that were read.

    Raises:
        UserError: In the end, if some could not be read.
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
    print(summary(read))
    if unread:
        raise UserError(f'{len(unread)} of {read + len(unread)} images cannot '
                        f'be read, the first is {unread[0]}; replace them')
