#version 460
#extension GL_GOOGLE_include_directive : require
#pragma hlx fast
// The tanh form of GELU (Hendrycks & Gimpel 2016), elementwise, of a tensor kept in 16 bits.
layout(local_size_x = 256) in;

#include "flat.glsl"
#include "narrow.glsl"
#include "gelu_fast.glsl"

layout(std430, set = 0, binding = 0) readonly buffer Input { uint input_[]; };      // [count / 2]
layout(std430, set = 0, binding = 1) writeonly buffer Output { uint output_[]; };   // [count / 2]
layout(std430, set = 0, binding = 0) readonly buffer InputQuads { uvec4 input_uvec4[]; };
layout(std430, set = 0, binding = 1) writeonly buffer OutputQuads { uvec4 output_uvec4[]; };

layout(push_constant) uniform Push {
    uint count;  // a multiple of 8
} push;

void main() {
    uint i = flat_index();
    if (8 * i >= push.count) return;
    uvec4 x = input_uvec4[i];
    output_uvec4[i] = uvec4(narrowed(gelu_fast(widened(x.xy))), narrowed(gelu_fast(widened(x.zw))));
}
