#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_ARB_gpu_shader_int64 : require
// adam_update for CPU-type devices: eight parameters an invocation.
layout(local_size_x = 64) in;

#include "exact.glsl"
#include "eights.glsl"
#include "flat.glsl"

layout(std430, set = 0, binding = 0) buffer Params { float params[]; };                // [num_params]
layout(std430, set = 0, binding = 1) readonly buffer Grads { float grads[]; };         // [num_params]
layout(std430, set = 0, binding = 2) buffer M { float m[]; };                          // [num_params]
layout(std430, set = 0, binding = 3) buffer V { float v[]; };                          // [num_params]
layout(std430, set = 0, binding = 4) readonly buffer Schedule { float schedule[]; };   // [3], as adam_update's
layout(std430, set = 0, binding = 5) readonly buffer Factor { float factor[]; };       // [1]: clip
layout(std430, set = 0, binding = 6) buffer Spoiled { uint spoiled[]; };               // [1], as adam_update's
layout(std430, set = 0, binding = 0) buffer ParamsEights { u64vec4 params_u64vec4[]; };
layout(std430, set = 0, binding = 1) readonly buffer GradsEights { u64vec4 grads_u64vec4[]; };
layout(std430, set = 0, binding = 2) buffer MEights { u64vec4 m_u64vec4[]; };
layout(std430, set = 0, binding = 3) buffer VEights { u64vec4 v_u64vec4[]; };

layout(push_constant) uniform Push {
    uint num_params;  // a multiple of eight
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
    // What is the same for all, read before anything branches, where software Vulkan reads it once.
    float clip = factor[0];
    float step_size = schedule[0];
    float inv_sqrt_correction2 = schedule[1];
    float decay = schedule[2];
    float beta1 = push.beta1;
    float beta2 = push.beta2;
    float one_minus_beta1 = push.one_minus_beta1;
    float one_minus_beta2 = push.one_minus_beta2;
    float eps = push.eps;
    uint first = push.first_param + 8 * i;
    uint decay_params = push.decay_params;
    if (8 * i >= push.num_params || clip < 0.0) return;
    float p[8] = eight(params_u64vec4[i]);
    float grad[8] = eight(grads_u64vec4[i]);
    float m8[8] = eight(m_u64vec4[i]);
    float v8[8] = eight(v_u64vec4[i]);
    uint first_spoiled = 0xFFFFFFFFu;
    [[unroll]] for (uint k = 8; k > 0; --k) {
        uint j = k - 1;
        uint in_arena = first + j;
        float g = snap(grad[j] * clip);
        float m_new = snap_moment(beta1 * m8[j] + one_minus_beta1 * g);
        float v_new = snap_moment(beta2 * v8[j] + one_minus_beta2 * (g * g));
        float denominator = sqrt_exact(v_new) * inv_sqrt_correction2 + eps;
        float step = snap(snap(m_new) * recip(denominator)) * step_size;
        float kept = in_arena < decay_params ? p[j] * decay : p[j];
        float updated = snap(kept - step);
        bool finite = is_finite(m_new) && is_finite(v_new) && is_finite(updated);
        m8[j] = finite ? m_new : m8[j];
        v8[j] = finite ? v_new : v8[j];
        p[j] = finite ? updated : p[j];
        first_spoiled = finite ? first_spoiled : in_arena;
    }
    m_u64vec4[i] = packed(m8);
    v_u64vec4[i] = packed(v8);
    params_u64vec4[i] = packed(p);
    if (first_spoiled != 0xFFFFFFFFu) atomicMin(spoiled[0], first_spoiled);
}
