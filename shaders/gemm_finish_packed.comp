#version 460
#extension GL_GOOGLE_include_directive : require
#pragma hlx fast
// Finishes a product that was summed block by block: C = snap(sum of the blocks + bias), rounded to 16 bits.
layout(local_size_x = 256) in;

#include "exact.glsl"
#include "flat.glsl"
#include "packed.glsl"

layout(std430, set = 0, binding = 0) readonly buffer Partials { float partials[]; };     // [blocks, m, n]
layout(std430, set = 0, binding = 1) readonly buffer Bias { float bias[]; };             // [n]
layout(std430, set = 0, binding = 2) writeonly buffer Output { uint output_[]; };        // [m, n / 2]
layout(std430, set = 0, binding = 0) readonly buffer PartialPairs { vec2 partials_vec2[]; };

layout(push_constant) uniform Push {
    uint m;
    uint n; // even
    uint blocks;
    uint use_bias;
    uint ldc;     // elements from one row of the result to the next, even
    uint c_first; // its first element, even
    uint gradient; // the elements are gradients
} push;

void main() {
    uint i = flat_index();
    uint pairs = push.m * push.n / 2;
    if (i >= pairs) return;
    vec2 total = vec2(0.0);
    for (uint block = 0; block < push.blocks; ++block) total += partials_vec2[block * pairs + i];
    uint row = i / (push.n / 2);
    uint column = i % (push.n / 2) * 2;
    if (push.use_bias != 0) total += vec2(bias[column], bias[column + 1]);
    vec2 x = vec2(snap(total.x), snap(total.y));
    output_[(push.c_first + row * push.ldc + column) / 2] = packed_pair(x, push.gradient != 0);
}
