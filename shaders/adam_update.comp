#version 460
#extension GL_GOOGLE_include_directive : require
// AdamW (Loshchilov & Hutter 2019) over the flat arena of parameters, or a piece of it, in place:
//   g = clip * grad,  m = beta1 m + (1-beta1) g,  v = beta2 v + (1-beta2) g^2
//   p = p * decay - step_size * m / (sqrt(v) * inv_sqrt_correction2 + eps)
// The first decay_params parameters (the matrices) decay, the rest (vectors) do not. What changes
// from step to step comes in `schedule`, calculated by the host in f64.
//
// Nothing that is not finite is ever stored: a clip below 0 stops the whole update, and an element whose
// moments or value would not be finite stays as it is and is reported.
layout(local_size_x = 256) in;

#include "exact.glsl"
#include "flat.glsl"

layout(std430, set = 0, binding = 0) buffer Params { float params[]; };                // [num_params]
layout(std430, set = 0, binding = 1) readonly buffer Grads { float grads[]; };         // [num_params]
layout(std430, set = 0, binding = 2) buffer M { float m[]; };                          // [num_params]
layout(std430, set = 0, binding = 3) buffer V { float v[]; };                          // [num_params]
// [3]: step_size = lr/(1-beta1^t), inv_sqrt_correction2 = 1/sqrt(1-beta2^t), decay = 1 - lr*weight_decay
layout(std430, set = 0, binding = 4) readonly buffer Schedule { float schedule[]; };
layout(std430, set = 0, binding = 5) readonly buffer Factor { float factor[]; };       // [1]: clip
// [1]: the first element of the arena that is not updated because the result would not be finite
layout(std430, set = 0, binding = 6) buffer Spoiled { uint spoiled[]; };

layout(push_constant) uniform Push {
    uint num_params;
    uint decay_params;
    float beta1;
    float beta2;
    float one_minus_beta1;
    float one_minus_beta2;
    float eps;
    uint first_param; // the piece's first element in the arena
} push;

void main() {
    uint i = flat_index();
    float clip = factor[0];
    if (i >= push.num_params || clip < 0.0) return;
    uint in_arena = push.first_param + i;
    float g = snap(grads[i] * clip);
    float m_new = snap_moment(push.beta1 * m[i] + push.one_minus_beta1 * g);
    float v_new = snap_moment(push.beta2 * v[i] + push.one_minus_beta2 * (g * g));
    float denominator = sqrt_exact(v_new) * schedule[1] + push.eps;
    float step = snap(snap(m_new) * recip(denominator)) * schedule[0];
    float kept = in_arena < push.decay_params ? params[i] * schedule[2] : params[i];
    float updated = snap(kept - step);
    if (is_finite(m_new) && is_finite(v_new) && is_finite(updated)) {
        m[i] = m_new;
        v[i] = v_new;
        params[i] = updated;
    } else {
        atomicMin(spoiled[0], in_arena);
    }
}
