# For Packer 1.6, as in Debian 12: the qemu builder on a ready base, and the ansible provisioner.
variable "base" {}
variable "output" {}
variable "private_key" {}
variable "credential" {}
variable "proxy" {}
variable "accelerator" {}
variable "cpu" {}

source "qemu" "plain" {
  disk_image           = true
  iso_url              = var.base
  iso_checksum         = "none"
  use_backing_file     = true
  skip_compaction      = true
  skip_resize_disk     = true
  output_directory     = var.output
  vm_name              = "disk.qcow2"
  format               = "qcow2"
  disk_cache           = "unsafe"
  accelerator          = var.accelerator
  machine_type         = "q35"
  cpus                 = 2
  memory               = 2048
  headless             = true
  boot_wait            = "-1s"
  net_device           = "virtio-net"
  ssh_username         = "root"
  ssh_private_key_file = var.private_key
  ssh_timeout          = "10m"
  shutdown_command     = "systemctl poweroff"
  qemu_img_args {
    create = ["-F", "qcow2"]
  }
  qemuargs = [
    ["-cpu", var.cpu],
    ["-display", "none"],
    ["-smbios", var.credential],
  ]
}

build {
  sources = ["source.qemu.plain"]

  provisioner "ansible" {
    playbook_file   = "playbook.yml"
    user            = "root"
    use_proxy       = false
    extra_arguments = ["--extra-vars", "proxy=${var.proxy}"]
  }
}
