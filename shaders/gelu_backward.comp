#version 460
#extension GL_GOOGLE_include_directive : require
// Multiplies a gradient, in place, by GELU's derivative at the forward pass's input.
layout(local_size_x = 256) in;

#include "exact.glsl"
#include "flat.glsl"

layout(std430, set = 0, binding = 0) readonly buffer Input { float input_[]; };  // [count]
layout(std430, set = 0, binding = 1) buffer Gradient { float gradient[]; };      // [count]

layout(push_constant) uniform Push {
    uint count;
} push;

void main() {
    uint i = flat_index();
    if (i >= push.count) return;
    gradient[i] = snap(gradient[i] * snap(gelu_grad(input_[i])));
}
