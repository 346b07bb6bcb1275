"""What runs an artifact on this machine: its own runtime, or a rehearsal of it."""

from intraq_deploy.targets.artifact import Artifact
from intraq_deploy.targets.onnxruntime.session import Session
from intraq_deploy.targets.onnxruntime.target import open_shipped
from intraq_deploy.targets.profile import load_profile
from intraq_deploy.targets.tensorrt.rehearsal import open_rehearsal


def is_rehearsed(artifact: Artifact) -> bool:
    """Whether the target's runtime is on the device only: what is seen here says nothing about its speed."""
    return load_profile(artifact.target).runtime != "onnxruntime"


def open_here(artifact: Artifact, threads: int = 0) -> Session:
    """The artifact as it is. threads: 0 lets ONNX Runtime decide."""
    return open_rehearsal(artifact, threads) if is_rehearsed(artifact) else open_shipped(artifact, threads)
