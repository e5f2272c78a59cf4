"""Fashion-MNIST: 60,000 and 10,000 images of clothes, 28x28, in MNIST's format. Xiao, Rasul and Vollgraf, arXiv 1708.07747;
MIT licence."""

from torch import Tensor

from lamina.data import mnist

HOME = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
SHA256 = {  # of the .gz files
    "train-images-idx3-ubyte": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "train-labels-idx1-ubyte": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "t10k-images-idx3-ubyte": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "t10k-labels-idx1-ubyte": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}
CLASSES = ("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


def load(split: str = "test") -> tuple[Tensor, Tensor]:
    """The images (N, 1, 28, 28), uint8, ink 255, and the labels (N,), int64, of the split "train" or "test"."""
    return mnist.load(split, "fashion_mnist", HOME, SHA256)
