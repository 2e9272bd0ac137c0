#version 460
#extension GL_GOOGLE_include_directive : require
#pragma hlx fast
#pragma hlx vulkan_1_3
#define IN_REGISTERS
#include "attention_matrix_keys.glsl"
