#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_ARB_gpu_shader_int64 : require
// embedding_forward for CPU-type devices: eight elements an invocation.
layout(local_size_x = 64) in;

#include "exact.glsl"
#include "eights.glsl"
#include "flat.glsl"

layout(std430, set = 0, binding = 0) readonly buffer Tokens { uint tokens[]; };     // [B,T]
layout(std430, set = 0, binding = 1) readonly buffer Wte { float wte[]; };          // [V,C]
layout(std430, set = 0, binding = 2) readonly buffer Wpe { float wpe[]; };          // [T,C]
layout(std430, set = 0, binding = 3) writeonly buffer Output { float output_[]; };  // [B,T,C]
layout(std430, set = 0, binding = 1) readonly buffer WteEights { u64vec4 wte_u64vec4[]; };
layout(std430, set = 0, binding = 2) readonly buffer WpeEights { u64vec4 wpe_u64vec4[]; };
layout(std430, set = 0, binding = 3) writeonly buffer OutputEights { u64vec4 output_u64vec4[]; };

layout(push_constant) uniform Push {
    uint num_positions;  // B*T
    uint context;        // T
    uint d_model;        // C, a multiple of eight
} push;

void main() {
    uint i = flat_index();
    uint width = push.d_model / 8;
    uint position = i / width;
    uint in_window = position % push.context;
    if (position >= push.num_positions) return;
    uint c = i % width;
    float x[8] = eight(wte_u64vec4[tokens[position] * width + c]);
    float y[8] = eight(wpe_u64vec4[in_window * width + c]);
    [[unroll]] for (uint j = 0; j < 8; ++j) x[j] = snap(x[j] + y[j]);
    output_u64vec4[i] = packed(x);
}
