# Deploys a host with Anemos once a provider has made it, and again when what it is to become changes, or the machine
# itself does.

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

variable "instance_id" {
  type        = string
  description = "What the provider calls the machine, such as the id of its resource: another machine is deployed again."
}

resource "terraform_data" "deployed" {
  triggers_replace = [
    var.instance_id,
    filesha256(var.hosts_file),
    # By name too: a file that is called otherwise makes another payload.
    sha256(jsonencode([for file in sort(fileset(var.payload, "**")) : [file, filesha256("${var.payload}/${file}")]])),
  ]

  provisioner "local-exec" {
    command = "${path.module}/anemos.sh '${var.hosts_file}' '${var.host}'"
  }
}
