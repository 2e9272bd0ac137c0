//! Reads a kernel's interface off its SPIR-V: bindings, push and specialization constants, workgroup size.

use crate::harden::storage_buffers;
use crate::spirv::{Index, literal, reference};
use rspirv::dr::{Instruction, Module, Operand};
use rspirv::spirv::{BuiltIn, Decoration, ExecutionMode, Op, StorageClass, Word};
use std::collections::BTreeMap;

/// Everything that Rust must know to call a kernel.
#[derive(Debug, Clone, PartialEq)]
pub struct Interface {
    /// Ascending by binding number, without gaps.
    pub bindings: Vec<Binding>,
    /// Ascending by offset.
    pub push: Vec<Member>,
    /// Ascending by offset, after `push`.
    pub addresses: Vec<Address>,
    /// Ascending by constant id.
    pub specialization: Vec<SpecConstant>,
    /// With every specialization constant at its default.
    pub local_size: [u32; 3],
}

#[derive(Debug, Clone, PartialEq)]
pub struct Binding {
    pub name: String,
    pub access: Access,
    pub element: Element,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Access {
    Read,
    Write,
    ReadWrite,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Element {
    F32,
    U32,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    pub name: String,
    pub offset: u32,
    pub element: Element,
}

/// A push constant that the executor fills in: the device address of what is bound.
#[derive(Debug, Clone, PartialEq)]
pub struct Address {
    pub binding: u32,
    pub offset: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub struct SpecConstant {
    pub name: String,
    pub id: u32,
    /// As 32 bits; booleans are 0 and 1.
    pub default: u32,
}

/// Reads the interface; the error names the file, what it declares, and what is supported.
pub fn interface(module: &Module, path: &str) -> Result<Interface, String> {
    let index = Index::new(module);
    let read = || {
        check_resources(module, &index)?;
        check_grid(module, &index)?;
        let bindings = bindings(module, &index)?;
        let (push, addresses) = push_members(module, &index, &bindings)?;
        Ok(Interface {
            bindings,
            push,
            addresses,
            specialization: specialization(module, &index)?,
            local_size: local_size(module, &index)?,
        })
    };
    read().map_err(|message: String| format!("{path}: {message}"))
}

/// Ends with an error if a kernel uses resources other than storage buffers in set 0.
fn check_resources(module: &Module, index: &Index) -> Result<(), String> {
    for (id, class) in module.types_global_values.iter().filter_map(variable) {
        match class {
            StorageClass::UniformConstant | StorageClass::Uniform | StorageClass::Image => {
                return Err(format!(
                    "{class:?} variable `{}`: only storage buffers are supported",
                    index.name(id)
                ));
            }
            StorageClass::StorageBuffer
                if index.decoration_literal(id, Decoration::DescriptorSet) != Some(0) =>
            {
                return Err(
                    "every storage buffer must be in set 0: write `layout(std430, set = 0, binding = ...)`"
                        .into(),
                );
            }
            _ => {}
        }
    }
    Ok(())
}

/// Ends with an error if a kernel asks how many workgroups there are along y or z: the executor cuts a
/// dispatch that takes long along these, and what it hands over at a time is then counted.
fn check_grid(module: &Module, index: &Index) -> Result<(), String> {
    let counts = |id: &Word| {
        index.decoration(*id, Decoration::BuiltIn) == Some(&[Operand::BuiltIn(BuiltIn::NumWorkgroups)])
    };
    let Some(grid) = module.types_global_values.iter().filter_map(|g| g.result_id).find(counts) else {
        return Ok(());
    };
    let mut loads = Vec::new();
    for instruction in module.functions.iter().flat_map(|function| function.all_inst_iter()) {
        let names = |id: Word| instruction.operands.contains(&Operand::IdRef(id));
        if !names(grid) && !loads.iter().any(|&load| names(load)) {
            continue;
        }
        let is_x = match instruction.class.opcode {
            Op::Load => {
                loads.extend(instruction.result_id);
                true
            }
            Op::AccessChain | Op::InBoundsAccessChain => {
                reference(&instruction.operands, 1).and_then(|id| index.constant(id)) == Some(0)
            }
            Op::CompositeExtract => literal(&instruction.operands, 1) == Some(0),
            _ => false,
        };
        if !is_x {
            return Err("only gl_NumWorkGroups.x may be read: a dispatch is cut along y and z".into());
        }
    }
    Ok(())
}

fn variable(global: &Instruction) -> Option<(Word, StorageClass)> {
    match global.operands.first()? {
        Operand::StorageClass(class) if global.class.opcode == Op::Variable => {
            Some((global.result_id?, *class))
        }
        _ => None,
    }
}

/// Suffixes of a second declaration of a binding, that reads the same words in another width or type.
const ALIAS_SUFFIXES: [&str; 9] =
    ["_vec2", "_vec3", "_vec4", "_uint", "_uvec2", "_uvec4", "_float", "_u64vec2", "_u64vec4"];

fn bindings(module: &Module, index: &Index) -> Result<Vec<Binding>, String> {
    let mut declarations: BTreeMap<u32, Vec<Binding>> = BTreeMap::new();
    for variable in storage_buffers(module) {
        let number = index
            .decoration_literal(variable, Decoration::Binding)
            .ok_or("a storage buffer has no binding number")?;
        let declared = declaration(variable, index).map_err(|m| format!("binding {number}: {m}"))?;
        declarations.entry(number).or_default().push(declared);
    }
    if declarations.is_empty() {
        return Err("no storage buffer is declared".into());
    }
    let mut bindings: Vec<Binding> = Vec::new();
    for (expected, (number, declared)) in (0..).zip(declarations) {
        if number != expected {
            return Err(format!("binding {expected} is missing: number the bindings 0, 1, 2, ..."));
        }
        let binding = merge_aliases(declared).map_err(|m| format!("binding {number}: {m}"))?;
        if bindings.iter().any(|b| b.name == binding.name) {
            return Err(format!("two bindings are named `{}`", binding.name));
        }
        bindings.push(binding);
    }
    Ok(bindings)
}

/// One `buffer` block: its only member is an array without a length.
fn declaration(variable: Word, index: &Index) -> Result<Binding, String> {
    const SHAPE: &str = "a storage buffer holds one array and nothing else: `buffer A { float a[]; }`";
    let pointer = index.definition(variable).and_then(|v| v.result_type).ok_or(SHAPE)?;
    let block = index.pointee(pointer).ok_or(SHAPE)?;
    let members = index.definition(block).filter(|b| b.class.opcode == Op::TypeStruct).ok_or(SHAPE)?;
    let [Operand::IdRef(array)] = members.operands.as_slice() else { return Err(SHAPE.into()) };
    let array = index.definition(*array).filter(|a| a.class.opcode == Op::TypeRuntimeArray).ok_or(SHAPE)?;
    let name = index.member_name(block, 0);
    let item = reference(&array.operands, 0).ok_or(SHAPE)?;
    let element = scalar_or_vector(item, index)
        .or_else(|| is_16_bit_float(item, index).then_some(Element::U32))
        .or_else(|| is_64_bit_uint(item, index).then_some(Element::U32))
        .ok_or_else(|| format!("`{name}`: only 32-bit float and uint, and vectors of them, are supported"))?;

    let declared = |decoration| {
        index.decoration(variable, decoration).is_some()
            || index.member_decoration(block, 0, decoration).is_some()
    };
    let access = match (declared(Decoration::NonWritable), declared(Decoration::NonReadable)) {
        (true, false) => Access::Read,
        (false, true) => Access::Write,
        (false, false) => Access::ReadWrite,
        (true, true) => return Err(format!("`{name}` is both readonly and writeonly")),
    };
    let name = name.strip_suffix('_').unwrap_or(name).to_owned();
    Ok(Binding { name, access, element })
}

/// Makes one binding of all declarations of a binding number: the one without a suffix names it.
fn merge_aliases(declared: Vec<Binding>) -> Result<Binding, String> {
    let names: Vec<String> = declared.iter().map(|d| format!("`{}`", d.name)).collect();
    let is_alias_of = |alias: &str, name: &str| {
        alias.strip_prefix(name).is_some_and(|suffix| ALIAS_SUFFIXES.contains(&suffix))
    };
    let naming = declared
        .iter()
        .find(|naming| {
            declared.iter().all(|d| std::ptr::eq(*naming, d) || is_alias_of(&d.name, &naming.name))
        })
        .ok_or_else(|| {
            let suffixes = ALIAS_SUFFIXES.join(", ");
            format!(
                "{} share it: name it once, and call the others by that name with {suffixes}",
                names.join(", ")
            )
        })?;
    let reads = declared.iter().any(|d| d.access != Access::Write);
    let writes = declared.iter().any(|d| d.access != Access::Read);
    let access = match (reads, writes) {
        (true, false) => Access::Read,
        (false, true) => Access::Write,
        _ => Access::ReadWrite,
    };
    Ok(Binding { access, ..naming.clone() })
}

fn scalar(type_id: Word, index: &Index) -> Option<Element> {
    let definition = index.definition(type_id)?;
    match (definition.class.opcode, definition.operands.as_slice()) {
        (Op::TypeFloat, [Operand::LiteralBit32(32)]) => Some(Element::F32),
        (Op::TypeInt, [Operand::LiteralBit32(32), Operand::LiteralBit32(0)]) => Some(Element::U32),
        _ => None,
    }
}

/// What two of fit in a word: outside the shader, a binding of words.
fn is_16_bit_float(type_id: Word, index: &Index) -> bool {
    let definition = index.definition(type_id);
    definition.is_some_and(|d| {
        d.class.opcode == Op::TypeFloat && d.operands.first() == Some(&Operand::LiteralBit32(16))
    })
}

/// Two words, or vectors of that.
fn is_64_bit_uint(type_id: Word, index: &Index) -> bool {
    let Some(definition) = index.definition(type_id) else { return false };
    match (definition.class.opcode, definition.operands.as_slice()) {
        (Op::TypeVector, [Operand::IdRef(of), ..]) => is_64_bit_uint(*of, index),
        (Op::TypeInt, operands) => operands == [Operand::LiteralBit32(64), Operand::LiteralBit32(0)],
        _ => false,
    }
}

fn scalar_or_vector(type_id: Word, index: &Index) -> Option<Element> {
    let definition = index.definition(type_id)?;
    match definition.class.opcode {
        Op::TypeVector => scalar(reference(&definition.operands, 0)?, index),
        _ => scalar(type_id, index),
    }
}

/// The push constants that a dispatch gives, and those that the executor fills in: `uint64_t a_address` is
/// the address of binding `a`.
fn push_members(
    module: &Module,
    index: &Index,
    bindings: &[Binding],
) -> Result<(Vec<Member>, Vec<Address>), String> {
    let mut blocks = module
        .types_global_values
        .iter()
        .filter(|global| variable(global).is_some_and(|(_, class)| class == StorageClass::PushConstant));
    let Some(variable) = blocks.next() else { return Ok((Vec::new(), Vec::new())) };
    let block = variable.result_type.and_then(|pointer| index.pointee(pointer));
    let definition = block.and_then(|id| index.definition(id)).filter(|b| b.class.opcode == Op::TypeStruct);
    let (Some(block), Some(definition)) = (block, definition) else {
        return Err("push constants must be a block of members".into());
    };
    let (mut members, mut addresses) = (Vec::new(), Vec::new());
    for (member, operand) in (0..).zip(&definition.operands) {
        let name = index.member_name(block, member).to_owned();
        let element = operand.id_ref_any().and_then(|id| scalar(id, index));
        let offset = index.member_decoration(block, member, Decoration::Offset).and_then(|o| literal(o, 0));
        let bound = name.strip_suffix("_address").and_then(|of| bindings.iter().position(|b| b.name == of));
        let is_address = operand.id_ref_any().is_some_and(|id| is_64_bit_uint(id, index));
        match (element, offset, bound) {
            (Some(element), Some(offset), _) => members.push(Member { name, offset, element }),
            (None, Some(offset), Some(binding)) if is_address => {
                addresses.push(Address { binding: binding as u32, offset });
            }
            _ => {
                return Err(format!(
                    "push constant `{name}`: only float and uint are supported, and a binding's address, \
                     `uint64_t BINDING_address`"
                ));
            }
        }
    }
    members.sort_by_key(|member| member.offset);
    addresses.sort_by_key(|address| address.offset);
    match (members.last(), addresses.first()) {
        (Some(member), Some(address)) if member.offset > address.offset => {
            Err(format!("push constant `{}`: addresses come last", member.name))
        }
        _ => Ok((members, addresses)),
    }
}

fn specialization(module: &Module, index: &Index) -> Result<Vec<SpecConstant>, String> {
    let mut constants: Vec<SpecConstant> = Vec::new();
    for global in &module.types_global_values {
        let Some(result_id) = global.result_id else { continue };
        let Some(id) = index.decoration_literal(result_id, Decoration::SpecId) else { continue };
        let name = match index.name(result_id) {
            "" => local_size_name(module, index, result_id)
                .ok_or_else(|| format!("specialization constant {id} has no name"))?,
            name => name.to_lowercase(),
        };
        let is_uint = global.result_type.and_then(|t| scalar(t, index)) == Some(Element::U32);
        let is_bool = matches!(global.class.opcode, Op::SpecConstantTrue | Op::SpecConstantFalse);
        let default = index
            .constant(result_id)
            .filter(|_| is_uint || is_bool)
            .ok_or_else(|| format!("specialization constant `{name}`: only uint and bool are supported"))?;
        if constants.iter().any(|c| c.id == id || c.name == name) {
            return Err(format!("specialization constant `{name}` (id {id}) is declared twice"));
        }
        constants.push(SpecConstant { name, id, default });
    }
    constants.sort_by_key(|constant| constant.id);
    Ok(constants)
}

/// `layout(local_size_x_id = 0) in` declares a specialization constant without a name of its own.
fn local_size_name(module: &Module, index: &Index, constant: Word) -> Option<String> {
    let axis = workgroup_size(module, index)?.iter().position(|id| *id == constant)?;
    Some(["local_size_x", "local_size_y", "local_size_z"][axis].to_owned())
}

/// The constants that make up `gl_WorkGroupSize`, where the module spells it out.
fn workgroup_size(module: &Module, index: &Index) -> Option<[Word; 3]> {
    let is_size = |global: &&Instruction| {
        let built_in = global.result_id.and_then(|id| index.decoration(id, Decoration::BuiltIn));
        built_in == Some(&[Operand::BuiltIn(BuiltIn::WorkgroupSize)])
    };
    let composite = module.types_global_values.iter().find(is_size)?;
    let axes = [0, 1, 2].map(|axis| reference(&composite.operands, axis));
    Some([axes[0]?, axes[1]?, axes[2]?])
}

fn local_size(module: &Module, index: &Index) -> Result<[u32; 3], String> {
    let [entry_point] = module.entry_points.as_slice() else {
        return Err("exactly one entry point is supported".into());
    };
    if entry_point.operands.get(2) != Some(&Operand::LiteralString("main".to_owned())) {
        return Err("the entry point must be named `main`".into());
    }
    // The built-in, which specialization constants can reach, counts before the execution mode.
    let axes = match workgroup_size(module, index) {
        Some(ids) => ids.map(|id| index.constant(id)),
        None => {
            let mode = |m: &&Instruction| {
                m.operands.get(1) == Some(&Operand::ExecutionMode(ExecutionMode::LocalSize))
            };
            let size = module.execution_modes.iter().find(mode).ok_or("no workgroup size is declared")?;
            [2, 3, 4].map(|operand| literal(&size.operands, operand))
        }
    };
    match axes {
        [Some(x), Some(y), Some(z)] => Ok([x, y, z]),
        _ => Err("the workgroup size must be of constants".into()),
    }
}
