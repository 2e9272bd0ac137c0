#version 460
#extension GL_GOOGLE_include_directive : require
#pragma hlx fast
// Multiplies a gradient, in place, by GELU's derivative at the forward pass's input; both kept in 16 bits.
layout(local_size_x = 256) in;

#include "flat.glsl"
#include "narrow.glsl"
#include "gelu_fast.glsl"

layout(std430, set = 0, binding = 0) readonly buffer Input { uint input_[]; };  // [count / 2]
layout(std430, set = 0, binding = 1) buffer Gradient { uint gradient[]; };      // [count / 2]
layout(std430, set = 0, binding = 0) readonly buffer InputQuads { uvec4 input_uvec4[]; };
layout(std430, set = 0, binding = 1) buffer GradientQuads { uvec4 gradient_uvec4[]; };

layout(push_constant) uniform Push {
    uint count;  // a multiple of 8
} push;

void main() {
    uint i = flat_index();
    if (8 * i >= push.count) return;
    uvec4 x = input_uvec4[i];
    uvec4 g = gradient_uvec4[i];
    // The gradient's scale is a factor of both sides.
    gradient_uvec4[i] = uvec4(
        narrowed(widened(g.xy) * gelu_grad_fast(widened(x.xy))), narrowed(widened(g.zw) * gelu_grad_fast(widened(x.zw))));
}
