#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#pragma hlx fast
// The matrix product by 16-bit floats of 5 bits of exponent and 11 of significand: C = A * B + bias.

#include "gemm_f16.glsl"
#include "gemm_matrix.glsl"
