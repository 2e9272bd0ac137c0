#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_ARB_gpu_shader_int64 : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require
// The matrix product of the backward pass for CPU-type devices: a gradient, so without bias.
#include "exact.glsl"

layout(std430, set = 0, binding = 0) readonly buffer Input1 { float input1[]; };   // A: [m, k], or [k, m] if TRANS_A
layout(std430, set = 0, binding = 1) readonly buffer Input2 { float input2[]; };   // B: [k, n], or [n, k] if TRANS_B
layout(std430, set = 0, binding = 2) writeonly buffer Output { float output_[]; }; // C: [m, n]
layout(std430, set = 0, binding = 0) readonly buffer Input1Quads { u64vec2 input1_u64vec2[]; };
layout(std430, set = 0, binding = 0) readonly buffer Input1Eights { u64vec4 input1_u64vec4[]; };
layout(std430, set = 0, binding = 1) readonly buffer Input2Quads { u64vec2 input2_u64vec2[]; };
layout(std430, set = 0, binding = 1) readonly buffer Input2Eights { u64vec4 input2_u64vec4[]; };
layout(std430, set = 0, binding = 2) writeonly buffer OutputQuads { u64vec2 output_u64vec2[]; };
layout(std430, set = 0, binding = 2) writeonly buffer OutputEights { u64vec4 output_u64vec4[]; };

#define LEFT input1
#define LEFT_QUADS input1_u64vec2
#define LEFT_EIGHTS input1_u64vec4
#define RIGHT input2
#define RIGHT_QUADS input2_u64vec2
#define RIGHT_EIGHTS input2_u64vec4
#define RESULT output_
#define RESULT_QUADS output_u64vec2
#define RESULT_EIGHTS output_u64vec4
#define BIAS(column) 0.0
#include "gemm_alone.glsl"
