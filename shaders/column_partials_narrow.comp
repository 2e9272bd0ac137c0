#version 460
#extension GL_GOOGLE_include_directive : require
#pragma hlx fast
// Sums over some of the rows of a gradient kept in 16 bits: partials[p,c] = sum of input[p + parts k, c], k
// ascending. An invocation sums eight columns.
layout(local_size_x = 64) in;

#include "flat.glsl"
#include "narrow.glsl"

layout(std430, set = 0, binding = 0) readonly buffer Input { uint input_[]; };         // [N,C/2]
layout(std430, set = 0, binding = 1) writeonly buffer Partials { float partials[]; };  // [parts,C]
layout(std430, set = 0, binding = 0) readonly buffer InputOcts { uvec4 input_uvec4[]; };
layout(std430, set = 0, binding = 1) writeonly buffer PartialQuads { vec4 partials_vec4[]; };

layout(push_constant) uniform Push {
    uint rows;     // N
    uint columns;  // C, a multiple of 8
    uint parts;
} push;

// Rows that an invocation reads before it adds them up, so that their ways from memory overlap.
const uint AT_ONCE = 8;

void main() {
    uint i = flat_index();
    uint octs = push.columns / 8;
    if (i >= push.parts * octs) return;
    uint c = i % octs;
    vec4 low = vec4(0.0), high = vec4(0.0);
    uint row = i / octs;
    for (; row + (AT_ONCE - 1) * push.parts < push.rows; row += AT_ONCE * push.parts) {
        uvec4 x[AT_ONCE];
        [[unroll]] for (uint j = 0; j < AT_ONCE; ++j) x[j] = input_uvec4[(row + j * push.parts) * octs + c];
        [[unroll]] for (uint j = 0; j < AT_ONCE; ++j) {
            low += widened_gradient(x[j].xy);
            high += widened_gradient(x[j].zw);
        }
    }
    for (; row < push.rows; row += push.parts) {
        uvec4 x = input_uvec4[row * octs + c];
        low += widened_gradient(x.xy);
        high += widened_gradient(x.zw);
    }
    partials_vec4[2 * i] = low;
    partials_vec4[2 * i + 1] = high;
}
