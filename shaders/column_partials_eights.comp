#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_ARB_gpu_shader_int64 : require
// column_partials for CPU-type devices: eight columns an invocation.
layout(local_size_x = 8) in;

#include "eights.glsl"
#include "flat.glsl"

const uint COLUMN_LANES = 64;

layout(std430, set = 0, binding = 0) readonly buffer Input { float input_[]; };        // [N,C]
layout(std430, set = 0, binding = 1) writeonly buffer Partials { float partials[]; };  // [64,C]
layout(std430, set = 0, binding = 0) readonly buffer InputEights { u64vec4 input_u64vec4[]; };
layout(std430, set = 0, binding = 1) writeonly buffer PartialsEights { u64vec4 partials_u64vec4[]; };

layout(push_constant) uniform Push {
    uint rows;     // N
    uint columns;  // C, a multiple of eight
} push;

void main() {
    uint i = flat_index();
    uint width = push.columns / 8;
    uint rows = push.rows;
    if (i >= COLUMN_LANES * width) return;
    float sum[8] = float[8](0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0);
    uint at = i;
    for (uint row = i / width; row < rows; row += COLUMN_LANES) {
        float x[8] = eight(input_u64vec4[at]);
        [[unroll]] for (uint j = 0; j < 8; ++j) sum[j] = sum[j] + x[j];
        at += COLUMN_LANES * width;
    }
    partials_u64vec4[i] = packed(sum);
}
