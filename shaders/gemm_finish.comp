#version 460
#extension GL_GOOGLE_include_directive : require
// Finishes a product that was summed block by block: C = snap(sum of the blocks, ascending, + bias).
layout(local_size_x = 256) in;

#include "exact.glsl"
#include "flat.glsl"

layout(std430, set = 0, binding = 0) readonly buffer Partials { float partials[]; }; // [blocks, m, n]
layout(std430, set = 0, binding = 1) readonly buffer Bias { float bias[]; };         // [n]
layout(std430, set = 0, binding = 2) writeonly buffer Output { float output_[]; };   // [m, n]

layout(push_constant) uniform Push {
    uint m;
    uint n;
    uint blocks;
    uint use_bias;
    uint ldc;     // elements from one row of the result to the next
    uint c_first; // its first element
} push;

void main() {
    uint i = flat_index();
    uint size = push.m * push.n;
    if (i >= size) return;
    float total = 0.0;
    for (uint block = 0; block < push.blocks; ++block) total = total + partials[block * size + i];
    uint column = i % push.n;
    float x = push.use_bias != 0 ? total + bias[column] : total;
    output_[push.c_first + i / push.n * push.ldc + column] = snap(x);
}
