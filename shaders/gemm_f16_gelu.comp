#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#pragma hlx fast
// C = A * B + bias and gelu(C), as gemm_f16.

#define GELU
#include "gemm_f16.glsl"
#include "gemm_matrix.glsl"
