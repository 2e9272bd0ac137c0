#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_ARB_gpu_shader_int64 : require
// accumulate for CPU-type devices: eight elements an invocation.
layout(local_size_x = 64) in;

#include "exact.glsl"
#include "eights.glsl"
#include "flat.glsl"

layout(std430, set = 0, binding = 0) readonly buffer Addend { float addend[]; };  // [count]
layout(std430, set = 0, binding = 1) buffer Sum { float sum[]; };                 // [count]
layout(std430, set = 0, binding = 0) readonly buffer AddendEights { u64vec4 addend_u64vec4[]; };
layout(std430, set = 0, binding = 1) buffer SumEights { u64vec4 sum_u64vec4[]; };

layout(push_constant) uniform Push {
    uint count;  // a multiple of eight
    uint first;  // not 0: sum = addend
} push;

void main() {
    uint i = flat_index();
    bool first = push.first != 0;
    if (8 * i >= push.count) return;
    float x[8] = eight(addend_u64vec4[i]);
    if (!first) {
        float s[8] = eight(sum_u64vec4[i]);
        [[unroll]] for (uint j = 0; j < 8; ++j) x[j] = s[j] + x[j];
    }
    [[unroll]] for (uint j = 0; j < 8; ++j) x[j] = snap(x[j]);
    sum_u64vec4[i] = packed(x);
}
