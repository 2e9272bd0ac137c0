#version 460
#extension GL_GOOGLE_include_directive : require
#pragma hlx fast
// As column_partials, of a gradient kept in 16 bits; an invocation sums two columns.
layout(local_size_x = 64) in;

#include "column.glsl"
#include "narrow.glsl"

layout(std430, set = 0, binding = 0) readonly buffer Input { uint input_[]; };         // [N,C/2]
layout(std430, set = 0, binding = 1) writeonly buffer Partials { float partials[]; };  // [64,C]
layout(std430, set = 0, binding = 1) writeonly buffer PartialPairs { vec2 partials_vec2[]; };

layout(push_constant) uniform Push {
    uint rows;     // N
    uint columns;  // C, an even number
} push;

void main() {
    uint i = flat_index();
    uint pairs = push.columns / 2;
    if (i >= COLUMN_LANES * pairs) return;
    uint c = i % pairs;
    vec2 sum = vec2(0.0);
    uint row = i / pairs;
    for (; row + (AT_ONCE - 1) * COLUMN_LANES < push.rows; row += AT_ONCE * COLUMN_LANES) {
        uint x[AT_ONCE];
        [[unroll]] for (uint j = 0; j < AT_ONCE; ++j) x[j] = input_[(row + j * COLUMN_LANES) * pairs + c];
        [[unroll]] for (uint j = 0; j < AT_ONCE; ++j) sum += unpacked_pair(x[j], true);
    }
    for (; row < push.rows; row += COLUMN_LANES) sum += unpacked_pair(input_[row * pairs + c], true);
    partials_vec2[i] = sum;
}
