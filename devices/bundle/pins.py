"""What a bundle is made of: wheels pinned by digest, distribution packages by name."""

from __future__ import annotations

from dataclasses import dataclass

RUNTIMES = ("onnxruntime", "litert")
# Every tag must be listed: the installer does not imply the older ones for a foreign platform.
TAGS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")


@dataclass(frozen=True)
class Wheel:
    """A runtime's wheel, from which one library is taken.

    ``member`` is the start of the library's path inside the wheel, ``library`` its name in the
    bundle, under which the runner opens it.
    """

    runtime: str
    package: str
    version: str
    sha256: str
    size: int  # bytes
    member: str
    library: str


@dataclass(frozen=True)
class Abi:
    """One kind of machine, named as ``uname -m`` names it.

    ``debian`` is the distribution's name for it, ``triplet`` the compiler's.
    """

    name: str
    debian: str
    triplet: str
    loader: str
    wheels: tuple[Wheel, ...]


ORT_VERSION, LITERT_VERSION = "1.31.1", "2.3.0"


def _wheels(ort_sha: str, ort_size: int, litert_sha: str, litert_size: int) -> tuple[Wheel, ...]:
    return (
        Wheel(
            "onnxruntime",
            "onnxruntime",
            ORT_VERSION,
            ort_sha,
            ort_size,
            f"onnxruntime/capi/libonnxruntime.so.{ORT_VERSION}",
            "libonnxruntime.so",
        ),
        Wheel(
            "litert",
            "ai-edge-litert",
            LITERT_VERSION,
            litert_sha,
            litert_size,
            "ai_edge_litert/libLiteRt.so",
            "libLiteRt.so",
        ),
    )


ABIS: dict[str, Abi] = {
    "aarch64": Abi(
        "aarch64",
        "arm64",
        "aarch64-linux-gnu",
        "ld-linux-aarch64.so.1",
        _wheels(
            "da05378364c44d4407e463982d2bf8d5e4cfea873283757e48beeb41df97b7f3",
            21_413_526,
            "853fc608f96da87bd5f3458465dfb9abbf18d5ae6b94eceacead407146f175ae",
            14_379_387,
        ),
    ),
    "x86_64": Abi(
        "x86_64",
        "amd64",
        "x86_64-linux-gnu",
        "ld-linux-x86-64.so.2",
        _wheels(
            "5752bd508126ae7c49894d3b9d2e83f0c3d487319246d04c444b393308d7ad7f",
            23_753_652,
            "1f15078a6725d2357d9de9221664c29afa0545d807559c5f7199ce5e40b96b23",
            21_778_233,
        ),
    ),
}

# What the runtimes link against, and the packages that hold it.
DEBIAN_PACKAGES = ("libc6", "libgcc-s1", "libstdc++6")
LIBRARIES = (
    "libc.so.6",
    "libm.so.6",
    "libdl.so.2",
    "libpthread.so.0",
    "librt.so.1",
    "libgcc_s.so.1",
    "libstdc++.so.6",
)
PACKAGES_SIZE = 3_000_000  # bytes, about
INDEX_SIZE = 9_500_000  # bytes, about: the signed package index of one architecture
