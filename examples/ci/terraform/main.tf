# Deploys a host with Anemos once a provider has made it, and again when what it is to become changes.

variable "hosts_file" {
  type        = string
  description = "The hosts.toml, which names the host by its address or an alias."
}

variable "host" {
  type        = string
  description = "The host's name in it."
}

variable "payload" {
  type        = string
  description = "The directory of its payload."
}

resource "terraform_data" "deployed" {
  triggers_replace = [
    filesha256(var.hosts_file),
    sha256(join("", [for file in sort(fileset(var.payload, "**")) : filesha256("${var.payload}/${file}")])),
  ]

  provisioner "local-exec" {
    command = "${path.module}/anemos.sh '${var.hosts_file}' '${var.host}'"
  }
}
