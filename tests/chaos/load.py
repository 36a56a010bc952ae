"""``python -m tests.chaos.load FOLDER``: load a deployed student and print what it computes."""

import sys

import torch

from src.common.errors import UserError
from src.common.files import sha256_tensors
from src.deploy.student import load_student


def main() -> int:
    try:
        student = load_student(sys.argv[1])
    except UserError as error:
        sys.stderr.write(f"Error: {' '.join(str(error).split())}\n")
        return 2
    size = student.card["image_size"]
    values = torch.arange(4 * 3 * size * size) % 251
    with torch.no_grad():
        logits = student(values.reshape(4, 3, size, size).to(torch.uint8))
    facts = [student.card["class_names"], student.card["accuracy"]]
    sys.stdout.write(f"{sha256_tensors(logits)} {facts}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
