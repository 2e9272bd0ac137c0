#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_ARB_gpu_shader_int64 : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require
// The forward matrix product for CPU-type devices: C = A * B + bias.
#include "exact.glsl"

layout(std430, set = 0, binding = 0) readonly buffer A { float a[]; };       // [m, k], or [k, m] if TRANS_A
layout(std430, set = 0, binding = 1) readonly buffer B { float b[]; };       // [k, n], or [n, k] if TRANS_B
layout(std430, set = 0, binding = 2) writeonly buffer C { float c[]; };      // [m, n]
layout(std430, set = 0, binding = 3) readonly buffer Bias { float bias[]; }; // [n]
layout(std430, set = 0, binding = 0) readonly buffer AQuads { u64vec2 a_u64vec2[]; };
layout(std430, set = 0, binding = 0) readonly buffer AEights { u64vec4 a_u64vec4[]; };
layout(std430, set = 0, binding = 1) readonly buffer BQuads { u64vec2 b_u64vec2[]; };
layout(std430, set = 0, binding = 1) readonly buffer BEights { u64vec4 b_u64vec4[]; };
layout(std430, set = 0, binding = 2) writeonly buffer CQuads { u64vec2 c_u64vec2[]; };
layout(std430, set = 0, binding = 2) writeonly buffer CEights { u64vec4 c_u64vec4[]; };

#define LEFT a
#define LEFT_QUADS a_u64vec2
#define LEFT_EIGHTS a_u64vec4
#define RIGHT b
#define RIGHT_QUADS b_u64vec2
#define RIGHT_EIGHTS b_u64vec4
#define RESULT c
#define RESULT_QUADS c_u64vec2
#define RESULT_EIGHTS c_u64vec4
#define BIAS(column) (push.use_bias != 0 ? bias[column] : 0.0)
#include "gemm_alone.glsl"
