#version 460
#extension GL_GOOGLE_include_directive : require
#pragma hlx fast
#define FACTOR_BF16
#include "attention_matrix_forward.glsl"
