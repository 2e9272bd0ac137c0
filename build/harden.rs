//! What the SPIR-V must say so that a driver calculates what the shader says and nothing else.

use crate::spirv::Index;
use rspirv::dr::{Instruction, Module, Operand};
use rspirv::spirv::{Capability, Decoration, ExecutionMode, Op, StorageClass, Word};
use std::collections::{HashMap, HashSet};

/// The float arithmetic that exact kernels may contain (see `refuse.rs`).
pub fn is_float_arithmetic(op: Op) -> bool {
    matches!(op, Op::FAdd | Op::FSub | Op::FMul | Op::FNegate | Op::VectorTimesScalar)
}

/// Forbids a driver to contract, reassociate or otherwise rewrite float arithmetic: `NoContraction`
/// on every arithmetic instruction, round to nearest even, signed zeros, infinities and NaNs kept.
pub fn keep_arithmetic_as_written(module: &mut Module) {
    let decorated: HashSet<Word> = module
        .annotations
        .iter()
        .filter_map(|a| match a.operands.as_slice() {
            [Operand::IdRef(id), Operand::Decoration(Decoration::NoContraction)] => Some(*id),
            _ => None,
        })
        .collect();
    let arithmetic: Vec<Word> = module
        .functions
        .iter()
        .flat_map(|function| function.all_inst_iter())
        .filter(|i| is_float_arithmetic(i.class.opcode))
        .filter_map(|i| i.result_id)
        .filter(|id| !decorated.contains(id))
        .collect();
    module.annotations.extend(arithmetic.into_iter().map(|id| decorate(id, Decoration::NoContraction)));

    for (capability, mode) in [
        (Capability::RoundingModeRTE, ExecutionMode::RoundingModeRTE),
        (Capability::SignedZeroInfNanPreserve, ExecutionMode::SignedZeroInfNanPreserve),
    ] {
        let operands = vec![Operand::Capability(capability)];
        module.capabilities.push(Instruction::new(Op::Capability, None, None, operands));
        for entry_point in &module.entry_points {
            let operands = vec![
                entry_point.operands[1].clone(),
                Operand::ExecutionMode(mode),
                Operand::LiteralBit32(32),
            ];
            module.execution_modes.push(Instruction::new(Op::ExecutionMode, None, None, operands));
        }
    }
}

/// Tells the driver which variables share a binding, as `a` and `a_vec4` do: it may otherwise
/// assume that a write through the one never changes what the other reads.
pub fn declare_aliases(module: &mut Module) {
    let index = Index::new(module);
    let mut by_binding: HashMap<u32, Vec<Word>> = HashMap::new();
    for variable in storage_buffers(module) {
        if let Some(binding) = index.decoration_literal(variable, Decoration::Binding) {
            by_binding.entry(binding).or_default().push(variable);
        }
    }
    let mut aliased: Vec<Word> = by_binding.into_values().filter(|v| v.len() > 1).flatten().collect();
    aliased.retain(|id| index.decoration(*id, Decoration::Aliased).is_none());
    aliased.sort_unstable();
    module.annotations.extend(aliased.into_iter().map(|id| decorate(id, Decoration::Aliased)));
}

/// The ids of all storage buffer variables, in the order of their declaration.
pub fn storage_buffers(module: &Module) -> Vec<Word> {
    let is_storage_buffer = |i: &&Instruction| {
        i.class.opcode == Op::Variable
            && i.operands.first() == Some(&Operand::StorageClass(StorageClass::StorageBuffer))
    };
    module.types_global_values.iter().filter(is_storage_buffer).filter_map(|i| i.result_id).collect()
}

fn decorate(id: Word, decoration: Decoration) -> Instruction {
    let operands = vec![Operand::IdRef(id), Operand::Decoration(decoration)];
    Instruction::new(Op::Decorate, None, None, operands)
}
