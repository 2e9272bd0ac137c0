//! Refuses exact kernels that contain float instructions whose result Vulkan does not fix to the bit.
//!
//! The list says what is allowed; what it does not name is refused, future instructions included.
//! Expressions of literals alone never get here: the compiler has folded them into one literal.

use crate::compile::File;
use crate::harden::is_float_arithmetic;
use crate::spirv::{Index, literal};
use rspirv::dr::{Instruction, Module, Operand};
use rspirv::spirv::{GlslStd450Op, Op, Word};
use std::collections::HashSet;

/// Fails, naming every instruction that an exact kernel must not contain and where it stands.
pub fn check(module: &Module, files: &[File]) -> Result<(), String> {
    let index = Index::new(module);
    let checker = Checker { floats: float_types(module), imports_glsl: imports_glsl(module), index };
    let mut refusals = Vec::new();
    for global in &module.types_global_values {
        if let Some(what) = checker.refused_global(global) {
            refusals.push(format!("{}: {what} is outside the exact contract", files[0].path));
        }
    }
    for function in &module.functions {
        let Some(id) = function.def.as_ref().and_then(|def| def.result_id) else { continue };
        for instruction in function.all_inst_iter() {
            if let Some(what) = checker.refused(instruction) {
                let place = place_of(checker.index.name(id), files);
                refusals.push(format!("{}: {what}, {place}, is outside the exact contract", files[0].path));
            }
        }
    }
    refusals.dedup();
    if refusals.is_empty() {
        return Ok(());
    }
    refusals.push(format!(
        "{}: an exact kernel calculates with f32 +, -, *, negation, abs and comparisons alone; \
         shaders/include/exact.glsl has the rest",
        files[0].path
    ));
    Err(refusals.join("\n"))
}

struct Checker<'m> {
    index: Index<'m>,
    /// Types that are floats or contain or point to floats.
    floats: HashSet<Word>,
    /// The id of the GLSL.std.450 instruction set, if it is used.
    imports_glsl: Option<Word>,
}

impl Checker<'_> {
    /// What to call a type or constant that is not allowed.
    fn refused_global(&self, global: &Instruction) -> Option<String> {
        let name = op_name(global.class.opcode);
        match global.class.opcode {
            Op::TypeFloat => match global.operands.as_slice() {
                [Operand::LiteralBit32(32)] => None,
                [Operand::LiteralBit32(width), ..] => Some(format!("{name} of {width} bits")),
                _ => Some(name),
            },
            Op::SpecConstantOp if self.touches_floats(global) => {
                let operation = global.operands.iter().find_map(|operand| match operand {
                    Operand::LiteralSpecConstantOpInteger(op) => Some(op_name(*op)),
                    _ => None,
                });
                Some(format!("{name} {} on floats", operation.unwrap_or_default()))
            }
            // A driver may read a subnormal literal as zero.
            Op::Constant if global.result_type.is_some_and(|t| self.floats.contains(&t)) => {
                let bits = literal(&global.operands, 0)?;
                f32::from_bits(bits)
                    .is_subnormal()
                    .then(|| format!("the subnormal literal {:e}", f32::from_bits(bits)))
            }
            _ => None,
        }
    }

    /// What to call an instruction that is not allowed.
    fn refused(&self, instruction: &Instruction) -> Option<String> {
        let op = instruction.class.opcode;
        if !self.touches_floats(instruction) || is_allowed(op) {
            return None;
        }
        match op {
            Op::ConvertFToS | Op::ConvertFToU | Op::ConvertSToF | Op::ConvertUToF => (!self
                .converts_32_bits(instruction))
            .then(|| format!("{} with other than 32-bit integers", op_name(op))),
            Op::ExtInst => {
                let number = match instruction.operands.get(1)? {
                    Operand::LiteralExtInstInteger(number) => *number,
                    _ => return Some(op_name(op)),
                };
                let set = instruction.operands.first().and_then(Operand::id_ref_any);
                match GlslStd450Op::from_u32(number) {
                    Some(GlslStd450Op::FAbs) if set == self.imports_glsl => None,
                    Some(name) if set == self.imports_glsl => Some(format!("OpExtInst {name:?}")),
                    _ => Some(format!("OpExtInst number {number}")),
                }
            }
            _ => Some(op_name(op)),
        }
    }

    /// True if the result or an operand is a float or contains or points to one.
    fn touches_floats(&self, instruction: &Instruction) -> bool {
        let operand_types = instruction.operands.iter().filter_map(Operand::id_ref_any).map(|id| {
            let definition = self.index.definition(id);
            definition.and_then(|d| d.result_type).unwrap_or(id)
        });
        operand_types.chain(instruction.result_type).any(|t| self.floats.contains(&t))
    }

    fn converts_32_bits(&self, instruction: &Instruction) -> bool {
        let operand = instruction.operands.first().and_then(Operand::id_ref_any);
        let operand_type = operand.and_then(|id| self.index.definition(id)?.result_type);
        [instruction.result_type, operand_type].into_iter().all(|t| t.is_some_and(|t| self.is_32_bits(t)))
    }

    fn is_32_bits(&self, scalar_or_vector: Word) -> bool {
        let Some(definition) = self.index.definition(scalar_or_vector) else { return false };
        match definition.class.opcode {
            Op::TypeInt | Op::TypeFloat => literal(&definition.operands, 0) == Some(32),
            Op::TypeVector => definition.operands[0].id_ref_any().is_some_and(|t| self.is_32_bits(t)),
            _ => false,
        }
    }
}

/// Instructions on floats that give the same bits everywhere: the arithmetic that `harden.rs` pins
/// down, comparisons, and whatever moves values without changing them. `OpUndef` is left out on
/// purpose, as are atomics and everything that combines values across invocations.
fn is_allowed(op: Op) -> bool {
    is_float_arithmetic(op) || is_comparison(op) || moves_values(op)
}

fn is_comparison(op: Op) -> bool {
    use Op::*;
    matches!(
        op,
        FOrdEqual
            | FOrdNotEqual
            | FOrdLessThan
            | FOrdLessThanEqual
            | FOrdGreaterThan
            | FOrdGreaterThanEqual
            | FUnordEqual
            | FUnordNotEqual
            | FUnordLessThan
            | FUnordLessThanEqual
            | FUnordGreaterThan
            | FUnordGreaterThanEqual
            | IsNan
            | IsInf
    )
}

fn moves_values(op: Op) -> bool {
    use Op::*;
    matches!(
        op,
        Variable
            | Load
            | Store
            | AccessChain
            | InBoundsAccessChain
            | ArrayLength
            | CopyMemory
            | CopyObject
            | CopyLogical
            | Bitcast
            | ConvertUToPtr
            | Select
            | Phi
            | CompositeConstruct
            | CompositeExtract
            | CompositeInsert
            | VectorShuffle
            | VectorExtractDynamic
            | VectorInsertDynamic
            | Function
            | FunctionParameter
            | FunctionCall
            | ReturnValue
            | GroupNonUniformShuffle
            | GroupNonUniformShuffleXor
            | GroupNonUniformShuffleUp
            | GroupNonUniformShuffleDown
            | GroupNonUniformBroadcast
            | GroupNonUniformBroadcastFirst
    )
}

/// All float types, and all types that are made of or point to or return or take one.
fn float_types(module: &Module) -> HashSet<Word> {
    let mut floats = HashSet::new();
    for global in &module.types_global_values {
        let made_of_floats =
            global.operands.iter().filter_map(Operand::id_ref_any).any(|id| floats.contains(&id));
        // Types have no type themselves; constants and variables have one.
        let is_type = global.result_type.is_none();
        if let Some(id) = global.result_id
            && is_type
            && (global.class.opcode == Op::TypeFloat || made_of_floats)
        {
            floats.insert(id);
        }
    }
    floats
}

fn imports_glsl(module: &Module) -> Option<Word> {
    let glsl = [Operand::LiteralString("GLSL.std.450".to_owned())];
    module.ext_inst_imports.iter().find(|i| i.operands == glsl)?.result_id
}

/// Where a function stands: the compiler keeps its name (`gelu(f1;`), and the files say the line.
fn place_of(mangled: &str, files: &[File]) -> String {
    let name = mangled.split('(').next().unwrap_or_default();
    for file in files {
        for (number, line) in file.text.lines().enumerate() {
            if defines_function(line, name) {
                return format!("in {name}() at {}:{}", file.path, number + 1);
            }
        }
    }
    format!("in {name}()")
}

/// True for a line such as `float gelu(float x) {`: no indentation, a type, then the name.
fn defines_function(line: &str, name: &str) -> bool {
    let Some((before, _)) = line.split_once('(') else { return false };
    let mut words = before.split_whitespace();
    before.starts_with(|c: char| c.is_alphabetic())
        && words.next_back() == Some(name)
        && words.next_back().is_some()
}

fn op_name(op: Op) -> String {
    format!("Op{op:?}")
}
