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
    // A loop over the tree's parts of eight leaves, in the order in which their sums are added up: all of the
    // tree at once is more code than is ever run again.
    float pairs[8] = float[8](0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0);
    float fours[8] = pairs;
    float sum[8] = pairs;
    [[dont_unroll]] for (uint n = 0; n < 8; ++n) {
        uint first = (n & 1) * 4 + (n & 2) + n / 4;
        float part[8][8];
        [[unroll]] for (uint p = 0; p < 8; ++p) part[p] = eight(partials_u64vec4[(first + 8 * p) * width + c]);
        [[unroll]] for (uint s = 4; s > 0; s >>= 1)
            [[unroll]] for (uint p = 0; p < s; ++p)
                [[unroll]] for (uint j = 0; j < 8; ++j) part[p][j] = part[p][j] + part[p + s][j];
        [[unroll]] for (uint j = 0; j < 8; ++j) {
            float x = part[0][j];
            pairs[j] = (n & 1) == 0 ? x : pairs[j] + x;
            fours[j] = n % 4 == 1 ? pairs[j] : n % 4 == 3 ? fours[j] + pairs[j] : fours[j];
            sum[j] = n == 3 ? fours[j] : n == 7 ? sum[j] + fours[j] : sum[j];
        }
    }
    [[unroll]] for (uint j = 0; j < 8; ++j) sum[j] = snap(sum[j]);
    output_u64vec4[c] = packed(sum);
}
