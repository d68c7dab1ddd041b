"""Kernels as they stand in programs that XLA compiled for an H100."""

import pytest

from femur_jax.gpu_plan import hlo
from femur_jax.gpu_plan.collectives import collectives
from femur_jax.gpu_plan.kernels import kernels
from femur_jax.gpu_plan.roofline import kernel_seconds, predict
from femur_jax.gpu_plan.targets import BANDWIDTH_SHARE, GPUS, MATRIX_SHARE

# Lines of the tiny denoiser's training step in bfloat16, without much of their attributes.
PROGRAM = """\
HloModule jit_update, is_scheduled=true

%fused_convert (param_0.1: f32[16,64]) -> bf16[16,64] {
  %param_0.1 = f32[16,64]{1,0} parameter(0)
  %constant.1 = f32[] constant(2)
  %broadcast.1 = f32[16,64]{1,0} broadcast(%constant.1), dimensions={}
  %multiply.1 = f32[16,64]{1,0} multiply(%param_0.1, %broadcast.1)
  ROOT %convert.1 = bf16[16,64]{1,0} convert(%multiply.1)
}

%gemm_fusion_dot.1_computation (parameter_0: bf16[16,64], parameter_1: bf16[64,128]) \
-> f32[16,128] {
  %parameter_0 = bf16[16,64]{1,0} parameter(0)
  %parameter_1 = bf16[64,128]{1,0} parameter(1)
  ROOT %dot.1 = f32[16,128]{1,0} dot(%parameter_0, %parameter_1), lhs_contracting_dims={1}, \
rhs_contracting_dims={0}
}

%sliced (param_0.2: f32[4,1024], param_1.2: s32[]) -> f32[1,1024] {
  %param_0.2 = f32[4,1024]{1,0} parameter(0)
  %param_1.2 = s32[] parameter(1)
  %constant.2 = s32[] constant(0)
  %convert.2 = f32[4,1024]{1,0} convert(%param_0.2)
  ROOT %dynamic-slice.1 = f32[1,1024]{1,0} dynamic-slice(%convert.2, %param_1.2, %constant.2), \
dynamic_slice_sizes={1,1024}
}

%body (arg: (s32[], f32[4,1024])) -> (s32[], f32[4,1024]) {
  %arg = (s32[], f32[4,1024]{1,0}) parameter(0)
  %get-tuple-element.1 = s32[] get-tuple-element(%arg), index=0
  %get-tuple-element.2 = f32[4,1024]{1,0} get-tuple-element(%arg), index=1
  %one = f32[1,1024]{1,0} fusion(%get-tuple-element.2, %get-tuple-element.1), kind=kLoop, \
calls=%sliced
  ROOT %tuple.1 = (s32[], f32[4,1024]{1,0}) tuple(%get-tuple-element.1, %get-tuple-element.2)
}

%condition (arg.1: (s32[], f32[4,1024])) -> pred[] {
  %arg.1 = (s32[], f32[4,1024]{1,0}) parameter(0)
  ROOT %constant.3 = pred[] constant(true)
}

ENTRY %main.640 (x: bf16[16,32,32,32], w: bf16[64,3,3,32], q: bf16[16,256,2,64], a: f32[16,64], \
b: bf16[64,128], c: (s32[], f32[4,1024])) -> f32[16,128] {
  %x = bf16[16,32,32,32]{3,2,1,0} parameter(0)
  %w = bf16[64,3,3,32]{3,2,1,0} parameter(1)
  %q = bf16[16,256,2,64]{3,2,1,0} parameter(2)
  %a = f32[16,64]{1,0} parameter(3), metadata={op_name="a (the first)"}
  %b = bf16[64,128]{1,0} parameter(4)
  %c = (s32[], f32[4,1024]{1,0}) parameter(5)
  %conv.1 = (bf16[16,32,32,64]{3,2,1,0}, u8[512]{0}) custom-call(%x, %w), \
window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, \
custom_call_target="__cudnn$convBiasActivationForward", \
metadata={op_name="jit(update)/jvp()/conv_general_dilated"}
  %y = bf16[16,32,32,64]{3,2,1,0} get-tuple-element(%conv.1), index=0
  %conv.2 = (bf16[16,32,32,32]{3,2,1,0}, u8[0]{0}) custom-call(%y, %w), \
window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, \
custom_call_target="__cudnn$convBackwardInput"
  %conv.3 = (bf16[64,3,3,32]{3,2,1,0}, u8[0]{0}) custom-call(%x, %y), \
window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, \
custom_call_target="__cudnn$convBackwardFilter"
  %fwd = (bf16[16,2,256,64]{3,1,2,0}, f32[16,2,256]{2,1,0}, u8[0]{0}) \
custom-call(%q, %q, %q), custom_call_target="__cudnn$fmhaSoftmax", \
operand_layout_constraints={bf16[16,256,2,64]{3,2,1,0}}
  %fusion.1 = bf16[16,64]{1,0} fusion(%a), kind=kLoop, calls=%fused_convert
  %gemm_fusion_dot.1 = f32[16,128]{1,0} fusion(%fusion.1, %b), kind=kCustom, \
calls=%gemm_fusion_dot.1_computation, backend_config={"kind":"__triton_gemm"}
  %custom-call.94 = (f32[64,128]{1,0}, s8[4194304]{0}) custom-call(%fusion.1, %gemm_fusion_dot.1), \
custom_call_target="__cublas$lt$matmul", backend_config={"gemm_backend_config":\
{"dot_dimension_numbers":{"lhs_contracting_dimensions":["0"],"rhs_contracting_dimensions":["0"]}}}
  %bitcast.1 = f32[8192]{0} bitcast(%b)
  %while.1 = (s32[], f32[4,1024]{1,0}) while(%c), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"4"}}
  %all-reduce-start.1 = f32[16,128]{1,0} all-reduce-start(%gemm_fusion_dot.1), channel_id=1, \
replica_groups=mesh['axis_0'=2,'axis_1'=8] {'axis_0'}, to_apply=%add
  %all-gather-start.1 = ((f32[16,64]{1,0}, bf16[4]{0}), (f32[128,64]{1,0}, bf16[32]{0})) \
all-gather-start(%a, %b), channel_id=2, replica_groups=[2,8]<=[16], dimensions={0}
  %copy.1 = f32[16,64]{0,1} copy(%a), metadata={op_name="jit(update)/optimizer/transpose"}
  %all-gather-done.1 = (f32[128,64]{1,0}, bf16[32]{0}) all-gather-done(%all-gather-start.1)
  ROOT %all-reduce-done.1 = f32[16,128]{1,0} all-reduce-done(%all-reduce-start.1)
}
"""


@pytest.fixture(scope="module")
def by_name():
    return {kernel.name: kernel for kernel in kernels(hlo.parse(PROGRAM))}


def test_every_line_that_costs_is_a_kernel(by_name):
    assert {name: kernel.group for name, kernel in by_name.items()} == {
        "conv.1": "convolutions",
        "conv.2": "convolutions",
        "conv.3": "convolutions",
        "fwd": "attention",
        "fusion.1": "elementwise",
        "gemm_fusion_dot.1": "matrix products",
        "custom-call.94": "matrix products",
        "copy.1": "elementwise",
        "one": "elementwise",
    }
    assert by_name["one"].times == 4
    assert by_name["conv.1"].source == "jit(update)/jvp()/conv_general_dilated"


def test_operations_follow_from_shapes(by_name):
    # Each of 16 x 32 x 32 x 64 outputs is a sum of 3 x 3 x 32 products, in all three passes.
    for name in ("conv.1", "conv.2", "conv.3"):
        assert by_name[name].matrix == 2 * (16 * 32 * 32 * 64) * (3 * 3 * 32)
    # Queries by keys, and weights by values, for 16 x 2 heads of 64 channels.
    assert by_name["fwd"].matrix == 2 * (16 * 2) * (2 * 256 * 256 * 64)
    assert by_name["gemm_fusion_dot.1"].matrix == 2 * 16 * 64 * 128
    assert by_name["custom-call.94"].matrix == 2 * 16 * 64 * 128
    assert by_name["fusion.1"].vector == 16 * 64


def test_traffic_is_what_kernels_read_and_write(by_name):
    x, w, y = 16 * 32 * 32 * 32 * 2, 64 * 9 * 32 * 2, 16 * 32 * 32 * 64 * 2
    assert by_name["conv.1"].bytes == by_name["conv.3"].bytes == x + w + y  # no workspace
    assert by_name["fusion.1"].bytes == 16 * 64 * (4 + 2)
    assert by_name["one"].bytes == 1024 * 4 + 1024 * 4 + 4  # one row of four, and its number


def test_collectives_and_what_runs_meanwhile():
    gathered, reduced = sorted(
        collectives(hlo.parse(PROGRAM), devices=16, gpus_a_node=8), key=lambda c: c.kind
    )
    assert (gathered.kind, gathered.devices, gathered.in_node) == ("all-gather", 8, True)
    assert gathered.bytes == 128 * 64 * 4 + 32 * 2  # the results, not the operands
    assert (reduced.kind, reduced.devices, reduced.in_node) == ("all-reduce", 2, False)
    assert [k.name for k in reduced.meanwhile] == [k.name for k in gathered.meanwhile] == ["copy.1"]


def test_a_step_takes_the_longest_of_arithmetic_and_memory(by_name):
    gpu = GPUS["h100"]
    memory = by_name["fusion.1"]
    assert kernel_seconds(memory, gpu) == memory.bytes / (BANDWIDTH_SHARE * gpu.bandwidth)
    module = hlo.parse(PROGRAM)
    found = list(kernels(module))
    joined = list(collectives(module, devices=16, gpus_a_node=8))
    prediction = predict(found, joined, gpu, model_flops=10**9)
    alone = sum(kernel.times * kernel_seconds(kernel, gpu) for kernel in found)
    # 16 x 128 numbers to the other node; the gathering takes longer than the copy meanwhile, too.
    sent = 16 * 128 * 4, (128 * 64 * 4 + 32 * 2) * 7 / 8
    assert prediction.sent == (sent[1], sent[0])
    copied = prediction.optimizer
    assert copied == kernel_seconds(by_name["copy.1"], gpu)
    exposed = sent[0] / gpu.network + sent[1] / gpu.in_node - 2 * copied
    assert prediction.seconds == pytest.approx(alone + exposed)
    assert prediction.share == pytest.approx(1e9 / prediction.seconds / (MATRIX_SHARE * gpu.matrix))


def test_a_loop_of_unknown_length_is_refused():
    text = PROGRAM.replace('"known_trip_count":{"n":"4"}', "")
    with pytest.raises(ValueError, match=r"how often while\.1"):
        list(kernels(hlo.parse(text)))


def test_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match="ENTRY"):
        hlo.parse("HloModule jit_update")
