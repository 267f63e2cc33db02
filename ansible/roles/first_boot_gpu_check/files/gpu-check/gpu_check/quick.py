"""The quick set: what nvidia-smi, CUDA's driver and the kernel say. About a minute."""
# ruff: noqa: INP001 - a program of its own: see __main__.py

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gpu_check import smi
from gpu_check.judge import counted, known, numbers, of_steps, require
from gpu_check.outcome import Check, Failed, Said, Skipped

if TYPE_CHECKING:
    from gpu_check.machine import Machine

_AWAKE = ("P0", "P1", "P2")
# As the driver writes it (Xid) and the one of NVSwitches (SXid).
_XID = re.compile(r"\b(S?Xid) \(PCI:([0-9a-fA-F:.]+)\): (\d+)")


# --- what nvidia-smi says -------------------------------------------------------------------------


def nvidia_smi(machine: Machine) -> Said:
    """A GPU is here, so its driver must answer; all other checks of this kind read the answer."""
    answer = machine.smi_answer
    if answer is None:
        raise Failed("a GPU is here, and no nvidia-smi: the driver's programs are missing")
    if answer.status is None:
        raise Failed(answer.last)
    if answer.status != 0:
        raise Failed(f"nvidia-smi ended with status {answer.status}: {answer.last}", answer.said)
    try:
        log = smi.parse(answer.stdout)
    except ValueError as error:
        raise Failed(str(error), answer.said) from error
    return Said(f"driver {log.driver}, CUDA {log.cuda}, {len(log.gpus)} GPUs")


def driver_version(machine: Machine) -> Said:
    """The driver is the expected one, and its module is of the same version as its library."""
    found, module = machine.smi.driver, machine.host.read("/sys/module/nvidia/version")
    wanted = machine.expected.driver_version
    if not wanted and not module:
        raise Skipped("no version is expected, and the module does not tell its own")
    problems = []
    if wanted and found != wanted:
        problems.append(f"the driver is {found}, expected is {wanted}")
    if module and found != module:
        problems.append(f"the library is {found}, the loaded module is {module}")
    require(problems)
    return Said(f"{found}{', as expected' if wanted else ', library and module'}")


def cuda_version(machine: Machine) -> Said:
    """The driver can run programs of the expected CUDA version."""
    found, wanted = machine.smi.cuda, machine.expected.cuda_version
    if not wanted:
        raise Skipped("no version is expected")
    if not found:
        raise Skipped("nvidia-smi does not tell the CUDA version of the driver")
    if numbers(found) < numbers(wanted):
        raise Failed(f"the driver supports CUDA {found}, expected is {wanted} or newer")
    return Said(f"the driver supports CUDA {found}, expected is {wanted} or newer")


def gpu_list(machine: Machine) -> Said:
    """Every GPU of the PCI bus is driven, and names and counts are those that were declared."""
    names = [gpu.name for gpu in machine.smi.gpus]
    wanted, bus = machine.expected.gpus, machine.host.gpus_on_the_bus()
    evidence = "\n".join(f"{gpu.bus} {gpu.name} {gpu.said('uuid')}" for gpu in machine.smi.gpus)
    driven = {gpu.bus for gpu in machine.smi.gpus}
    undriven = [address for address in bus if address not in driven]
    foreign = [name for name in dict.fromkeys(names) if wanted and name not in wanted]
    problems = [f"{address} is on the PCI bus and not driven" for address in undriven]
    problems += [
        f"{names.count(name)} x {name}, expected are {count}"
        for name, count in wanted.items()
        if names.count(name) != count
    ]
    problems += [f"{name} is not expected" for name in foreign]
    if not bus and not wanted:
        raise Skipped("no list is expected, and no PCI bus can be seen")
    require(problems, evidence)
    return Said(counted(names), evidence)


def declared_gpus(machine: Machine) -> Said:
    """Every GPU is one that the image is for, by its PCI device id; the driver need not know it."""
    wanted = machine.expected.pci_ids
    if not wanted:
        raise Skipped("no PCI ids are expected")
    found = machine.pci_ids
    if not found:
        raise Skipped("neither the PCI bus nor nvidia-smi tells a PCI id")
    names = {one: name for name, ids in wanted.items() for one in ids}
    declared = ", ".join(f"{name} ({', '.join(ids)})" for name, ids in wanted.items())
    require(
        [
            f"{address} has the PCI id {one}, which is none of {declared}"
            for address, one in found.items()
            if one not in names
        ]
    )
    evidence = "\n".join(f"{address} {one} {names[one]}" for address, one in found.items())
    return Said(counted([names[one] for one in found.values()]), evidence)


def ecc(machine: Machine) -> Said:
    """Memory is corrected as it must be, and no error since the boot was past correction."""
    modes = known(machine.gpus, "ecc_mode/current_ecc", "ECC mode")
    wanted, problems = machine.expected.ecc, []
    for gpu, mode in modes:
        pending = gpu.said("ecc_mode/pending_ecc") or mode
        if pending != mode:
            problems.append(f"{gpu}: ECC is {mode}, and {pending} after the next reset")
        if wanted and mode != wanted:
            problems.append(f"{gpu}: ECC is {mode}, expected is {wanted}")
        if gpu.uncorrectable:
            problems.append(f"{gpu}: {gpu.uncorrectable} uncorrectable errors")
        if gpu.said("ecc_errors/aggregate/sram_threshold_exceeded") == "Yes":
            problems.append(f"{gpu}: too many SRAM errors, the GPU wants to be replaced")
    require(problems)
    return Said(f"{counted([mode for _, mode in modes])}, no uncorrectable error")


def persistence(machine: Machine) -> Said:
    """GPUs stay initialised while no program uses them."""
    modes = known(machine.gpus, "persistence_mode", "persistence mode")
    off = [f"{gpu}: persistence mode is {mode}" for gpu, mode in modes if mode != "Enabled"]
    require(off)
    return Said(counted([mode for _, mode in modes]))


def retired_pages(machine: Machine) -> Said:
    """No page of memory waits to be retired (GPUs before Ampere)."""
    told = known(machine.gpus, "retired_pages/pending_retirement", "retired pages")
    require([f"{gpu}: pages wait for a reset to be retired" for gpu, said in told if said == "Yes"])
    paths = ("multiple_single_bit_retirement", "double_bit_retirement")
    count = sum(
        gpu.number(f"retired_pages/{path}/retired_count") or 0 for gpu, _ in told for path in paths
    )
    return Said(f"{count} pages retired, none waits")


def remapped_rows(machine: Machine) -> Said:
    """No row of memory waits to be remapped, and no remapping failed (GPUs since Ampere)."""
    told = known(machine.gpus, "remapped_rows/remapped_row_pending", "remapped rows")
    problems = [f"{gpu}: rows wait for a reset" for gpu, said in told if said == "Yes"]
    problems += [
        f"{gpu}: remapping a row failed, the GPU wants to be replaced"
        for gpu, _ in told
        if gpu.said("remapped_rows/remapped_row_failure") == "Yes"
    ]
    require(problems)
    kinds = ("remapped_row_corr", "remapped_row_unc")
    count = sum(gpu.number(f"remapped_rows/{kind}") or 0 for gpu, _ in told for kind in kinds)
    return Said(f"{count} rows remapped, none waits, none failed")


def mig_mode(machine: Machine) -> Said:
    """GPUs are partitioned, or not, as expected, and do not wait for a reset."""
    modes = known(machine.gpus, "mig_mode/current_mig", "MIG mode")
    wanted, problems = machine.expected.mig, []
    for gpu, mode in modes:
        pending = gpu.said("mig_mode/pending_mig") or mode
        if pending != mode:
            problems.append(f"{gpu}: MIG is {mode}, and {pending} after the next reset")
        if wanted and mode != wanted:
            problems.append(f"{gpu}: MIG is {mode}, expected is {wanted}")
    require(problems)
    parts = sum(len(gpu.element.findall("mig_devices/mig_device")) for gpu, _ in modes)
    return Said(counted([mode for _, mode in modes]) + (f", {parts} MIG devices" if parts else ""))


# --- the PCI bus and device files -----------------------------------------------------------------


def device_nodes(machine: Machine) -> Said:
    """Programs find the devices: asked after CUDA, which has the driver make them."""
    minors = [minor for gpu in machine.gpus if (minor := gpu.number("minor_number")) is not None]
    wanted = ["/dev/nvidiactl", "/dev/nvidia-uvm", *(f"/dev/nvidia{minor}" for minor in minors)]
    require([f"{path} is missing" for path in wanted if not machine.host.is_device(path)])
    return Said(f"{len(wanted)} device nodes", "\n".join(wanted))


def _awake(machine: Machine) -> tuple[smi.Gpu, ...]:
    """Return the GPUs as they were while CUDA held them, where that is known."""
    try:
        return smi.parse(machine.cuda["smi"]).gpus
    except (Failed, KeyError, ValueError):
        return machine.gpus


def _link(gpu: smi.Gpu, kind: str) -> tuple[int | None, int | None]:
    folder = {"gen": "pcie_gen", "width": "link_widths"}[kind]
    path = f"pci/pci_gpu_link_info/{folder}"
    return gpu.number(f"{path}/current_link_{kind}"), gpu.number(f"{path}/max_link_{kind}")


def pcie_width(machine: Machine) -> Said:
    """Each GPU has all the lanes that it and its slot have."""
    links = [(gpu, *_link(gpu, "width")) for gpu in machine.gpus]
    told = [(gpu, now, most) for gpu, now, most in links if now and most]
    if not told:
        raise Skipped("no GPU here tells its PCIe width (a virtual machine may hide it)")
    require([f"{gpu}: PCIe x{now} of x{most}" for gpu, now, most in told if now < most])
    return Said(counted([f"x{now}" for _, now, _ in told]))


def pcie_generation(machine: Machine) -> Said:
    """Each GPU that is awake has a link as fast as it and its slot can be; idle links slow down."""
    links = [(gpu, *_link(gpu, "gen")) for gpu in _awake(machine)]
    told = [(gpu, now, most) for gpu, now, most in links if now and most]
    if not told:
        raise Skipped("no GPU here tells its PCIe generation (a virtual machine may hide it)")
    slow = [(gpu, f"{gpu}: PCIe {now} of {most}") for gpu, now, most in told if now < most]
    require([text for gpu, text in slow if gpu.said("performance_state") in _AWAKE])
    if slow:
        states = "; ".join(f"{text} in {gpu.said('performance_state')}" for gpu, text in slow)
        raise Skipped(f"links of GPUs that sleep are slow: {states}")
    return Said(counted([f"PCIe {now}" for _, now, _ in told]))


# --- what CUDA's driver says ----------------------------------------------------------------------


def cuda_devices(machine: Machine) -> Said:
    """CUDA finds the GPUs: what deviceQuery tells."""
    answer, wanted = machine.cuda, machine.expected.cuda_version
    if "missing" in answer and wanted:
        raise Failed(f"CUDA {wanted} is expected, and there is no libcuda: {answer['missing']}")
    if "missing" in answer:
        raise Skipped(f"there is no libcuda: {answer['missing']}")
    if answer["error"]:
        raise Failed(answer["error"] + _hint(answer["error"]))
    devices = answer["devices"]
    lines = [
        f"{one['index']}: {one['name']}, compute capability {one['capability'][0]}."
        f"{one['capability'][1]}, {one['memory'] >> 20} MiB"
        for one in devices
    ]
    driven = len(machine.gpus)
    # Of GPUs in parts CUDA shows one part only.
    parted = any(gpu.said("mig_mode/current_mig") == "Enabled" for gpu in machine.gpus)
    if not devices or (len(devices) != driven and not parted):
        raise Failed(f"CUDA finds {len(devices)} devices, nvidia-smi {driven}", "\n".join(lines))
    version = f"{answer['driver'] // 1000}.{answer['driver'] % 1000 // 10}"
    return Said(f"CUDA {version}: {'; '.join(lines)}", "\n".join(lines))


def _hint(error: str) -> str:
    hints = {
        " 802 ": "; the GPUs wait for their fabric manager, which must be of the driver's version",
        " 803 ": "; the driver's library and module are of different versions",
    }
    return next((hint for number, hint in hints.items() if number in error), "")


def cuda_copy(machine: Machine) -> Said:
    """A context is made on each device, memory taken, and bytes come back as they were sent."""
    return of_steps([(f"GPU {one['index']}", one["copy"]) for one in machine.cuda_devices()])


def cuda_kernel(machine: Machine) -> Said:
    """Code that NVRTC compiles for each device's own architecture computes what it should."""
    return of_steps([(f"GPU {one['index']}", one["kernel"]) for one in machine.cuda_devices()])


# --- the kernel's log: last, so that it tells of all that was done before -------------------------


def kernel_log(machine: Machine) -> Said:
    """Since the boot neither the driver nor an NVSwitch reported an error."""
    for argv in (["journalctl", "-k", "-b", "-o", "cat", "--no-pager"], ["dmesg"]):
        if machine.host.has(argv[0]):
            answer = machine.host.run(argv)
            # An empty log is one that may not be read: every boot writes hundreds of lines.
            if answer.status == 0 and answer.stdout.count("\n") > 1:
                return _without_xids(answer.stdout.splitlines())
    raise Skipped("neither journalctl nor dmesg shows the kernel's log")


def _without_xids(lines: list[str]) -> Said:
    hits = [(line, found) for line in lines if (found := _XID.search(line))]
    told = dict.fromkeys(f"{hit[1]} {hit[3]} of {hit[2]}" for _, hit in hits)
    require(list(told), "\n".join(line for line, _ in hits))
    return Said(f"no Xid in {len(lines)} lines")


LAST = Check("kernel-log", "No Xid in the kernel's log", kernel_log)
CHECKS = (
    Check("nvidia-smi", "nvidia-smi answers", nvidia_smi),
    Check("driver-version", "Driver version", driver_version),
    Check("cuda-version", "CUDA version of the driver", cuda_version),
    Check("gpu-list", "GPUs", gpu_list),
    Check("declared-gpus", "Declared GPUs", declared_gpus),
    Check("ecc", "ECC", ecc),
    Check("persistence-mode", "Persistence mode", persistence),
    Check("retired-pages", "Retired pages", retired_pages),
    Check("remapped-rows", "Remapped rows", remapped_rows),
    Check("mig-mode", "MIG mode", mig_mode),
    Check("cuda-devices", "CUDA finds the GPUs", cuda_devices),
    Check("cuda-copy", "Memory of the GPUs", cuda_copy),
    Check("cuda-kernel", "A kernel on the GPUs", cuda_kernel),
    Check("device-nodes", "Device nodes", device_nodes),
    Check("pcie-width", "PCIe width", pcie_width),
    Check("pcie-generation", "PCIe generation", pcie_generation),
)
