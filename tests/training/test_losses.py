"""The training losses against their definitions."""

import torch
from torch.nn import functional as F

from intraq_deploy.training import losses


def logits(seed):
    return 3 * torch.randn(6, 4, generator=torch.Generator().manual_seed(seed))


def test_distillation_is_the_divergence_times_the_squared_temperature():
    student, teacher, t = logits(0), logits(1), 4.0
    p, q = F.softmax(teacher / t, 1), F.softmax(student / t, 1)
    expected = t**2 * (p * (p.log() - q.log())).sum(1).mean()
    torch.testing.assert_close(losses.distillation(student, teacher, t), expected)
    torch.testing.assert_close(losses.distillation(teacher, teacher, t), torch.tensor(0.0), atol=1e-6, rtol=0)


def test_centred_logits_ignore_a_shift():
    student = logits(0)
    assert float(losses.centred_logits(student, student + 5)) < 1e-10
    assert float(losses.centred_logits(student, 2 * student)) > 0.1


def test_cross_entropy_is_that_of_the_labels():
    student, labels = logits(0), torch.tensor([0, 1, 2, 3, 0, 1])
    expected = -F.log_softmax(student, 1)[torch.arange(6), labels].mean()
    torch.testing.assert_close(losses.cross_entropy(student, labels, logits(1), 0.0), expected)


def test_cross_entropy_where_the_teacher_is_sure():
    student, labels = logits(0), torch.tensor([0, 1, 2, 3, 0, 1])
    teacher = torch.zeros(6, 4)
    teacher[1, 1] = teacher[4, 0] = 9.0  # sure, and right, of images 1 and 4
    expected = F.cross_entropy(student[[1, 4]], labels[[1, 4]])
    torch.testing.assert_close(losses.cross_entropy(student, labels, teacher, 0.5), expected)
    assert float(losses.cross_entropy(student, labels, torch.zeros(6, 4), 0.5)) == 0


def test_features_count_alike_whatever_their_size():
    teacher = {"a": torch.randn(2, 3, 4, 4), "b": torch.randn(2, 5, 2, 2)}
    student = {"a": 1.1 * teacher["a"], "b": teacher["b"]}
    expected = torch.tensor(0.01 / 2)
    torch.testing.assert_close(losses.features(student, teacher), expected)
    large = {name: 100 * tensor for name, tensor in teacher.items()}
    torch.testing.assert_close(losses.features({n: 100 * t for n, t in student.items()}, large), expected)
