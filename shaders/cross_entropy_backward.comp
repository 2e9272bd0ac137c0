#version 460
#extension GL_GOOGLE_include_directive : require
// Turns softmax into the gradient of the mean loss with respect to the logits, in place:
//   gradient[n,v] = (softmax[n,v] - [v == target]) * scale,  0 in a row whose target is IGNORE.
layout(local_size_x = 256) in;

#include "exact.glsl"
#include "flat.glsl"

const uint IGNORE = 0xFFFFFFFFu;

layout(std430, set = 0, binding = 0) readonly buffer Targets { uint targets[]; };  // [N]
layout(std430, set = 0, binding = 1) buffer Gradient { float gradient[]; };        // [N,V], softmax on entry

layout(push_constant) uniform Push {
    uint rows;        // N
    uint vocab_size;  // V
    float scale;      // 1 / positions in the whole batch
} push;

void main() {
    uint i = flat_index();
    if (i >= push.rows * push.vocab_size) return;
    uint target = targets[i / push.vocab_size];
    float hit = i % push.vocab_size == target ? 1.0 : 0.0;
    gradient[i] = target == IGNORE ? 0.0 : snap(snap(gradient[i] - hit) * push.scale);
}
