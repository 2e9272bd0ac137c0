#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_ARB_gpu_shader_int64 : require
// gelu_forward for CPU-type devices: eight elements an invocation.
layout(local_size_x = 64) in;

#include "exact.glsl"
#include "eights.glsl"
#include "flat.glsl"

layout(std430, set = 0, binding = 0) readonly buffer Input { float input_[]; };     // [count]
layout(std430, set = 0, binding = 1) writeonly buffer Output { float output_[]; };  // [count]
layout(std430, set = 0, binding = 0) readonly buffer InputEights { u64vec4 input_u64vec4[]; };
layout(std430, set = 0, binding = 1) writeonly buffer OutputEights { u64vec4 output_u64vec4[]; };

layout(push_constant) uniform Push {
    uint count;  // a multiple of eight
} push;

void main() {
    uint i = flat_index();
    if (8 * i >= push.count) return;
    float x[8] = eight(input_u64vec4[i]);
    [[unroll]] for (uint j = 0; j < 8; ++j) x[j] = snap(gelu(x[j]));
    output_u64vec4[i] = packed(x);
}
