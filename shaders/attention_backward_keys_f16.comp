#version 460
#extension GL_GOOGLE_include_directive : require
#pragma hlx fast
#include "attention_matrix_keys.glsl"
