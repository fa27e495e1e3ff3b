"""Class names: the text that stands for a class index."""

from pipeline.errors import UserError
from pipeline.io.root import Root


def class_names(labels: str, num_classes: int) -> list[str]:
    """Names of the classes of a model, by class index.

    Args:
        labels: `imagenet1k`, or the path or URL of a text file with one name per line.
        num_classes: how many the model has; 0 takes the file as it is, for the labels of the data.

    Raises:
        UserError: the file's lines do not match the number of classes.
    """
    if labels == "imagenet1k":
        if num_classes != 1000:
            return [f"class {index}" for index in range(num_classes)]
        from torchvision.models import ResNet50_Weights  # metadata only: nothing is downloaded

        return list(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])
    folder, _, name = labels.rpartition("/")
    root = Root.open(folder or ".")
    if not root.exists(name):
        raise UserError(f'model.labels = "{labels}": there is no such file; give "imagenet1k" or a text file')
    names = root.read_text(name).splitlines()
    if num_classes and len(names) != num_classes:
        raise UserError(
            f'model.labels = "{labels}" has {len(names)} lines, the model has {num_classes} classes; '
            "give one name per line, in the order of the class indices"
        )
    return names
