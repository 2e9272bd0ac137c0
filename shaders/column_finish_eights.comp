#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_ARB_gpu_shader_int64 : require
// column_finish for CPU-type devices: eight columns an invocation.
layout(local_size_x = 8) in;

#include "exact.glsl"
#include "eights.glsl"
#include "flat.glsl"

const uint COLUMN_LANES = 64;

layout(std430, set = 0, binding = 0) readonly buffer Partials { float partials[]; };  // [64,C]
layout(std430, set = 0, binding = 1) writeonly buffer Output { float output_[]; };    // [C]
layout(std430, set = 0, binding = 0) readonly buffer PartialsEights { u64vec4 partials_u64vec4[]; };
layout(std430, set = 0, binding = 1) writeonly buffer OutputEights { u64vec4 output_u64vec4[]; };

layout(push_constant) uniform Push {
    uint columns;  // C, a multiple of eight
} push;

void main() {
    uint c = flat_index();
    uint width = push.columns / 8;
    if (c >= width) return;
    // The tree's first level as the sums are loaded.
    const uint HALF = COLUMN_LANES / 2;
    float part[HALF][8];
    [[unroll]] for (uint p = 0; p < HALF; ++p) {
        float x[8] = eight(partials_u64vec4[p * width + c]);
        float y[8] = eight(partials_u64vec4[(p + HALF) * width + c]);
        [[unroll]] for (uint j = 0; j < 8; ++j) part[p][j] = x[j] + y[j];
    }
    [[unroll]] for (uint s = HALF / 2; s > 0; s >>= 1)
        [[unroll]] for (uint p = 0; p < s; ++p)
            [[unroll]] for (uint j = 0; j < 8; ++j) part[p][j] = part[p][j] + part[p + s][j];
    float sum[8];
    [[unroll]] for (uint j = 0; j < 8; ++j) sum[j] = snap(part[0][j]);
    output_u64vec4[c] = packed(sum);
}
