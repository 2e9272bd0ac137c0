#version 460
#extension GL_GOOGLE_include_directive : require
// Cross-entropy of each row of logits against its target, and the row's softmax:
//   losses[n] = log(sum_v exp(logits[n,v] - max)) + max - logits[n,target]
// A row whose target is IGNORE has loss 0.
#include "exact.glsl"
#include "row.glsl"

const uint IGNORE = 0xFFFFFFFFu;

layout(std430, set = 0, binding = 0) readonly buffer Logits { float logits[]; };   // [N,V]
layout(std430, set = 0, binding = 1) readonly buffer Targets { uint targets[]; };  // [N]
layout(std430, set = 0, binding = 2) writeonly buffer Losses { float losses[]; };  // [N]
layout(std430, set = 0, binding = 3) buffer Softmax { float softmax[]; };          // [N,V]

layout(push_constant) uniform Push {
    uint rows;        // N
    uint vocab_size;  // V
} push;

void main() {
    uint row = row_index();
    bool live = row < push.rows;
    uint base = (live ? row : 0) * push.vocab_size;

    float part[ROW_LANES];
    for (uint l = 0; l < LANES_HERE; ++l) {
        part[l] = logits[base];
        for (uint v = lane(l); v < push.vocab_size; v += ROW_LANES)
            part[l] = logits[base + v] > part[l] ? logits[base + v] : part[l];
    }
    float largest = row_max(part);

    for (uint l = 0; l < LANES_HERE; ++l) {
        part[l] = 0.0;
        for (uint v = lane(l); v < push.vocab_size; v += ROW_LANES) {
            float e = snap(exp_exact(logits[base + v] - largest));
            if (live) softmax[base + v] = e;
            part[l] = part[l] + e;
        }
    }
    float sum = row_sum(part);
    float inv_sum = recip(sum);

    if (!live) return;
    for (uint l = 0; l < LANES_HERE; ++l)
        for (uint v = lane(l); v < push.vocab_size; v += ROW_LANES)
            softmax[base + v] = snap(softmax[base + v] * inv_sum);
    if (gl_LocalInvocationID.x == 0) {
        uint target = targets[row];
        losses[row] = target == IGNORE ? 0.0 : snap(log_exact(sum) + (largest - logits[base + target]));
    }
}
