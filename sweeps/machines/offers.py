"""Offers: clouds' machines with GPUs and their images; every price and driver here has a source and a day.

What has none is left out, and --price-per-gpu-hour asked for. A cloud's own page has today's:
https://aws.amazon.com/ec2/pricing/on-demand/ and https://cloud.google.com/compute/all-pricing
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class ListPrice:
    """Of a machine on demand, for Linux, in us-east-1 or us-central1."""

    dollars_per_hour: float
    read_on: str
    """Day, as year-month-day."""


@dataclass(frozen=True)
class Machine:
    """A cloud's machine with GPUs."""

    num_gpus: int
    card: str
    """A key of CARDS."""
    price: ListPrice | None = None
    """None: no source is known."""


@dataclass(frozen=True)
class Image:
    """What a cluster file's workers start from."""

    driver: str
    """NVIDIA's, the oldest that the image had on that day and later."""
    read_on: str
    source: str


MACHINES = {
    # datareceipts/data-receipts, 109-gpu-pricing, which asked AWS's price list
    "p4d.24xlarge": Machine(8, "A100-40GB", ListPrice(21.96, "2026-11-09")),
    "p4de.24xlarge": Machine(8, "A100-80GB", ListPrice(27.45, "2026-11-09")),
    "p5.48xlarge": Machine(8, "H100", ListPrice(55.04, "2026-11-09")),
    # https://github.com/dstackai/dstack/pull/4110
    "p5en.48xlarge": Machine(8, "H200", ListPrice(63.296, "2026-08-06")),
    "p5e.48xlarge": Machine(8, "H200"),
    # https://main.d1m6t5n8e4tvia.amplifyapp.com/blog/amazon-ec2-on-demand-pricing-instance-families-2026/
    "g5.xlarge": Machine(1, "A10G", ListPrice(1.006, "2026-06-17")),
    "g5.2xlarge": Machine(1, "A10G"),
    "g6.2xlarge": Machine(1, "L4"),
    # Cyclenerd/google-cloud-pricing-cost-calculator, pricing.yml, from Google's billing catalogue
    "a2-highgpu-1g": Machine(1, "A100-40GB", ListPrice(3.67, "2025-03-06")),
    "a2-highgpu-8g": Machine(8, "A100-40GB", ListPrice(29.39, "2025-03-06")),
    "a2-ultragpu-8g": Machine(8, "A100-80GB", ListPrice(40.55, "2025-03-06")),
    "a3-highgpu-8g": Machine(8, "H100", ListPrice(88.49, "2025-03-06")),
}
"""Spot costs less, by a share that changes from day to day, so that a sum of these is an upper bound."""

NEEDED_DRIVER = 580
"""NVIDIA's oldest that runs CUDA 13, for which PyTorch is built: "CUDA 13.x: >= 580" at
https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html"""

IMAGES = {
    "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id": Image(
        "595.71.05",
        "2026-07-17",
        "release notes of AWS's deep learning base images for Ubuntu 24.04, of which this is the newest",
    ),
    "ubuntu-accelerator-2404-amd64-with-nvidia-580": Image(
        "580.173.02", "2026-08-20", "the image family's name, and v20260820 on a g2-standard-8"
    ),
}
