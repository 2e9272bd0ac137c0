#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_ARB_gpu_shader_int64 : require
// gelu_backward for CPU-type devices: eight elements an invocation.
layout(local_size_x = 64) in;

#include "exact.glsl"
#include "eights.glsl"
#include "flat.glsl"

layout(std430, set = 0, binding = 0) readonly buffer Input { float input_[]; };  // [count]
layout(std430, set = 0, binding = 1) buffer Gradient { float gradient[]; };      // [count]
layout(std430, set = 0, binding = 0) readonly buffer InputEights { u64vec4 input_u64vec4[]; };
layout(std430, set = 0, binding = 1) buffer GradientEights { u64vec4 gradient_u64vec4[]; };

layout(push_constant) uniform Push {
    uint count;  // a multiple of eight
} push;

void main() {
    uint i = flat_index();
    if (8 * i >= push.count) return;
    float x[8] = eight(input_u64vec4[i]);
    float g[8] = eight(gradient_u64vec4[i]);
    [[unroll]] for (uint j = 0; j < 8; ++j) g[j] = snap(g[j] * snap(gelu_grad(x[j])));
    gradient_u64vec4[i] = packed(g);
}
